"""What every object store can do, whatever it is made of."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """One stored object, by its store's own clock."""

    key: str
    size_bytes: int
    modified_at: datetime


class ObjectStore(Protocol):
    def put(self, key: str, data: bytes) -> None:
        """Store and verify; returns only when the bytes can be read back by anyone."""

    def get(self, key: str) -> bytes:
        """Raises NotFound."""

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; raises NotFound."""

    def size(self, key: str) -> int | None:
        """None when there is no such object."""

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """All objects below a prefix, in order and one by one: a bucket can hold more than memory."""

    def link(self, key: str, *, minutes: int) -> str | None:
        """A short-lived download address, or None when only the API can serve it."""

    def check(self) -> None:
        """Raises Unavailable or ConfigurationError when objects cannot be stored now."""
