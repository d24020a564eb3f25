"""Complete shards on their way to the store and into their rows, off the critical path.

A drawn shard is GPU time that was paid for: while the store or the database is away it waits in memory.
"""

import hashlib
import logging
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial

from shared import leases
from shared.database import Database
from shared.errors import LostLease, Unavailable
from shared.fitness import Fitness
from shared.leases import ShardLease, StoredShard
from shared.patience import AWAY, insist
from shared.settings import Settings
from shared.shards import pack
from shared.storage import ObjectStore
from shared.tasks import attempt

from .generate import ShardWork
from .keeper import LeaseKeeper

logger = logging.getLogger(__name__)
MOST_UPLOADS = 8  # of complete shards, each in memory


class Uploads:
    def __init__(
        self, settings: Settings, database: Database, store: ObjectStore, *, keeper: LeaseKeeper, fitness: Fitness
    ) -> None:
        self._settings, self._database, self._store = settings, database, store
        self._keeper, self._fitness = keeper, fitness
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="upload")
        self._running: set[Future[None]] = set()

    def start(self, shard: ShardWork, stop: threading.Event) -> None:
        """The keeper goes on extending the shard's lease until it is committed."""
        self._keeper.complete(shard.lease)
        self._running.add(self._pool.submit(self._upload, shard, stop))

    def make_room(self) -> None:
        """A slow store slows the drawing; raises what an upload met that was given up."""
        if len(self._running) > MOST_UPLOADS:
            wait(self._running, return_when=FIRST_COMPLETED)
        for upload in [upload for upload in self._running if upload.done()]:
            self._running.remove(upload)
            upload.result()

    def settle(self) -> set[Future[None]]:
        """Wait for all; the caller asks them what they met."""
        wait(self._running)
        ended, self._running = self._running, set()
        return ended

    def close(self) -> None:
        self._pool.shutdown()

    def _upload(self, shard: ShardWork, stop: threading.Event) -> None:
        lease = shard.lease
        try:
            attempt(partial(self._deliver, shard, stop), on_failure=partial(self._give_up, lease))
        except AWAY:
            with self._database.write() as session:
                leases.release(session, [lease])
            raise
        finally:
            self._keeper.drop([lease])

    def _deliver(self, shard: ShardWork, stop: threading.Event) -> None:
        """Encode, store, verify, commit."""
        data = pack(shard.samples())
        stored = stored_shard(shard, data)
        patiently = partial(
            insist,
            stop=stop,
            seconds=self._settings.upload_seconds,
            is_pointless=partial(self._keeper.was_taken, shard.lease),
        )
        if stop.is_set() and self._fitness.is_in_doubt:
            raise Unavailable("told to stop while the object store is away")
        patiently(partial(self._put, stored.object_key, data))
        patiently(partial(self._commit, shard.lease, stored))

    def _put(self, key: str, data: bytes) -> None:
        try:
            self._store.put(key, data)
        except Unavailable as problem:
            self._fitness.doubt(problem.detail)
            raise

    def _commit(self, lease: ShardLease, stored: StoredShard) -> None:
        """Safe to repeat after a lost connection: `leases.commit` knows whether the first COMMIT got through."""
        try:
            with self._database.write() as session:
                leases.commit(session, lease, stored)
        except LostLease as problem:
            logger.warning("fenced out", extra={"shard_id": lease.shard_id, "reason": problem.detail})
            self._discard(stored.object_key)
            return
        logger.info("shard stored", extra={"shard_id": lease.shard_id, "images": stored.accepted})

    def _discard(self, key: str) -> None:
        try:
            self._store.delete(key)
        except Unavailable as problem:
            logger.warning("object left to the sweep", extra={"key": key, "reason": problem.detail})

    def _give_up(self, lease: ShardLease, reason: str) -> None:
        with self._database.write() as session:
            leases.give_up(session, lease, reason=reason, max_attempts=self._settings.max_attempts)


def stored_shard(shard: ShardWork, data: bytes) -> StoredShard:
    return StoredShard(
        shard.lease.object_key,
        len(data),
        hashlib.sha256(data).hexdigest(),
        len(shard.accepted),
        tuple(sorted(shard.short)),
        dict(shard.rejections),
        seconds=round(shard.seconds, 3),
    )
