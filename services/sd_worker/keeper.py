"""Keeps the leases of the shards in hand alive from a thread, and knows which are gone."""

import logging
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from shared.database import Database
from shared.leases import ShardLease, extend, release

logger = logging.getLogger(__name__)


class Held(NamedTuple):
    """`until` is by this machine's monotonic clock; a complete shard only waits for its upload and commit."""

    lease: ShardLease
    until: float
    is_complete: bool = False


class LeaseKeeper:
    """A lease counts as lost when the database says so, or when our own clock says it must have run out."""

    def __init__(self, database: Database, *, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._held: dict[int, Held] = {}
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self._stop.set()
        self.thread.join(5)

    @property
    def is_empty(self) -> bool:
        with self._lock:
            return not self._held

    def add(self, leases: Iterable[ShardLease], *, claimed_at: float) -> None:
        """`claimed_at` is the monotonic time just before the claim, so that we never believe to hold one too long."""
        until = claimed_at + self._lease_seconds
        with self._lock:
            self._held |= {lease.shard_id: Held(lease, until) for lease in leases}

    def complete(self, lease: ShardLease) -> None:
        """From now on the shard is worth its commit even if no dataset wants it any more: others may reuse it."""
        with self._lock:
            if self._has(lease):
                self._held[lease.shard_id] = self._held[lease.shard_id]._replace(is_complete=True)

    def drop(self, leases: Iterable[ShardLease]) -> list[ShardLease]:
        """Stop extending these; returns those that were still held. A newer lease of the same shard stays."""
        with self._lock:
            return [self._held.pop(lease.shard_id).lease for lease in leases if self._has(lease)]

    def drop_all(self) -> list[ShardLease]:
        with self._lock:
            leases = [held.lease for held in self._held.values()]
            self._held.clear()
        return leases

    def is_held(self, lease: ShardLease) -> bool:
        """Strictly: no other worker can have it."""
        with self._lock:
            return self._has(lease) and time.monotonic() < self._held[lease.shard_id].until

    def was_taken(self, lease: ShardLease) -> bool:
        """The database has said so. While it is away nobody can take a lease, so a commit may still succeed."""
        with self._lock:
            return not self._has(lease)

    def renew(self) -> None:
        """Extend what we hold; give back what nobody wants any more, and forget it with what is lost."""
        with self._lock:
            leases = [held.lease for held in self._held.values()]
        asked = time.monotonic()
        with self._database.write() as session:
            ours = extend(session, leases, lease_seconds=self._lease_seconds)
            # Those that are lost already are not touched by it.
            release(session, [lease for lease in leases if lease.shard_id not in ours and self._is_unfinished(lease)])
        with self._lock:
            for lease in leases:
                if self._has(lease):
                    self._settle(lease, asked, is_ours=lease.shard_id in ours)

    def _settle(self, lease: ShardLease, asked: float, *, is_ours: bool) -> None:
        held = self._held[lease.shard_id]
        if is_ours:
            self._held[lease.shard_id] = held._replace(until=asked + self._lease_seconds)
        elif not held.is_complete or asked >= held.until:
            del self._held[lease.shard_id]

    def _has(self, lease: ShardLease) -> bool:
        held = self._held.get(lease.shard_id)
        return held is not None and held.lease.fence == lease.fence

    def _is_unfinished(self, lease: ShardLease) -> bool:
        with self._lock:
            return self._has(lease) and not self._held[lease.shard_id].is_complete

    def _run(self) -> None:
        while not self._stop.wait(self._lease_seconds / 3):
            try:
                self.renew()
            except SQLAlchemyError as error:
                logger.warning("leases not extended", extra={"reason": str(error)})
