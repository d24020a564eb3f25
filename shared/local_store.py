"""Objects as files below one folder; a crash leaves either the whole object or none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from .disk import check_room, write_whole
from .errors import ConfigurationError, NotFound, Unavailable
from .objects import Entry


class LocalStore:
    """With less room than `min_free_bytes` the store says that it is not ready."""

    def __init__(self, root: Path, *, min_free_bytes: int = 0) -> None:
        self.root = root
        self.min_free_bytes = min_free_bytes

    def path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if not parts or any(part in ("/", "..", ".") for part in parts):
            raise NotFound(f"no object {key!r}")
        return self.root.joinpath(*parts)

    def put(self, key: str, data: bytes) -> None:
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        except OSError as error:
            raise Unavailable(
                f"cannot write to the object folder {self.root}: {error.strerror}; free some space or make it writable"
            ) from error

    def get(self, key: str) -> bytes:
        return self.get_range(key, 0, -1)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with failures_explained(key), self.path(key).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def size(self, key: str) -> int | None:
        try:
            with failures_explained(key):
                return self.path(key).stat().st_size
        except NotFound:
            return None

    def delete(self, key: str) -> None:
        with failures_explained(key):
            self.path(key).unlink(missing_ok=True)

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Parts of writes that a crash cut off are listed too: nothing refers to them, so the sweep removes them."""
        folder = prefix.rpartition("/")[0]
        start = self.path(folder) if folder else self.root
        with failures_explained(prefix):
            for entry in entries_below(start, folder):
                if entry.key.startswith(prefix):
                    yield entry

    def link(self, key: str, *, minutes: int) -> str | None:
        return None

    def check(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the object folder {self.root} cannot be made ({error.strerror}); choose another with --data DIR"
            ) from error
        if not os.access(self.root, os.W_OK):
            raise ConfigurationError(f"the object folder {self.root} is not writable; choose another with --data DIR")
        check_room(self.root, min_free_bytes=self.min_free_bytes)


@contextmanager
def failures_explained(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise NotFound(f"no object {key!r}") from error
    except OSError as error:
        raise Unavailable(f"cannot read or remove object {key}: {error.strerror}") from error


def entries_below(folder: Path, key: str) -> Iterator[Entry]:
    """Depth first, each folder in the order of its names; what vanishes meanwhile is left out."""
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for item in found:
        item_key = f"{key}/{item.name}" if key else item.name
        if item.is_dir(follow_symlinks=False):
            yield from entries_below(Path(item.path), item_key)
            continue
        try:
            status = item.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield Entry(item_key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))
