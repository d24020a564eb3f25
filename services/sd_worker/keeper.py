"""Keeps the leases of the shards in hand alive from a thread, and knows which are gone."""

import logging
import threading
import time
from collections.abc import Iterable

from sqlalchemy.exc import SQLAlchemyError

from shared.database import Database
from shared.leases import ShardLease, extend

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """A lease counts as lost when the database says so, or when our own clock says it must have run out."""

    def __init__(self, database: Database, *, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._held: dict[int, tuple[ShardLease, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def add(self, leases: Iterable[ShardLease]) -> None:
        until = time.monotonic() + self._lease_seconds
        with self._lock:
            self._held |= {lease.shard_id: (lease, until) for lease in leases}

    def drop(self, shard_ids: Iterable[int]) -> list[ShardLease]:
        """Stop extending these; returns the leases that were still held."""
        with self._lock:
            return [self._held.pop(shard_id)[0] for shard_id in list(shard_ids) if shard_id in self._held]

    def drop_all(self) -> list[ShardLease]:
        with self._lock:
            leases = [lease for lease, _ in self._held.values()]
            self._held.clear()
        return leases

    def is_held(self, shard_id: int) -> bool:
        with self._lock:
            entry = self._held.get(shard_id)
            return entry is not None and time.monotonic() < entry[1]

    def renew(self) -> None:
        """Extend what we hold; leases that are lost or no longer wanted are forgotten."""
        with self._lock:
            leases = [lease for lease, _ in self._held.values()]
        asked = time.monotonic()
        with self._database.write() as session:
            ours = extend(session, leases, lease_seconds=self._lease_seconds)
        with self._lock:
            for lease in leases:
                if self._held.get(lease.shard_id, (None,))[0] != lease:
                    continue  # dropped or claimed anew meanwhile
                if lease.shard_id in ours:
                    self._held[lease.shard_id] = (lease, asked + self._lease_seconds)
                else:
                    del self._held[lease.shard_id]

    def _run(self) -> None:
        while not self._stop.wait(self._lease_seconds / 3):
            try:
                self.renew()
            except SQLAlchemyError as error:
                logger.warning("leases not extended", extra={"reason": str(error)})
