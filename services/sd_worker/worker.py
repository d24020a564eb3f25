"""Claims shards, draws their slots in batches that span shards, stores and commits each shard when it is complete."""

import hashlib
import logging
import math
import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial

from shared.vision.device import choose_device

from sqlalchemy.exc import OperationalError

from shared import leases, tables
from shared.errors import ConfigurationError, LostLease, Unavailable
from shared.leases import ShardLease, StoredShard
from shared.models import model_of_digest, registered, verify_weights
from shared.schema import open_database
from shared.settings import Settings
from shared.shards import pack
from shared.specs import Recipe
from shared.storage import ObjectStore, open_store
from shared.tasks import attempt
from shared.workers import Presence

from .generate import ShardWork, Slot, next_batch, take_images
from .health import Readiness
from .keeper import LeaseKeeper
from .pipeline import Generator

logger = logging.getLogger(__name__)
COMMIT_TRIES = 5
MOST_UPLOADS = 8
MOST_FAILURES = 3


def usable_models(settings: Settings) -> tuple[list[str], dict[str, str]]:
    """Models whose weights are here and are the registered ones, and why the others cannot be used."""
    usable, problems = [], {}
    for name, entry in registered(settings).items():
        try:
            verify_weights(settings, entry)
            usable.append(name)
        except ConfigurationError as problem:
            problems[name] = problem.detail
    return usable, problems


class ShardWorker:
    """The generating worker's state between batches: shards in hand, slots to draw, uploads under way."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = open_database(settings.sqlalchemy_url)
        self.store: ObjectStore = open_store(settings)
        self.device = choose_device(settings.device)
        self.models, problems = usable_models(settings)
        for name, problem in problems.items():
            logger.warning("model cannot be used here", extra={"model": name, "reason": problem})
        self.presence = Presence(self.database, "generate", device=str(self.device), models=self.models)
        self.keeper = LeaseKeeper(self.database, lease_seconds=settings.lease_seconds)
        self.uploads = ThreadPoolExecutor(2, thread_name_prefix="upload")
        self.readiness = Readiness(settings, self.database, self.store, problems)
        self.works: dict[int, ShardWork] = {}
        self.queue: deque[Slot] = deque()
        self.uploading: set[Future[None]] = set()
        self.next_leases: list[ShardLease] = []
        self.recipe_digest: str | None = None
        self.claim_until = math.inf
        self.failures = 0
        self.generator: tuple[str, Generator] | None = None
        self.presence.start()
        self.keeper.start()
        self.readiness.start()

    def close(self) -> None:
        self.readiness.stop()
        self.keeper.stop()
        self.uploads.shutdown()
        self.presence.stop()

    def work(self, stop: threading.Event) -> bool:
        """Draw until nothing is pending; when told to stop, give everything unfinished back."""
        started, drawn = time.monotonic(), 0
        self.claim_until = started + self.settings.drain_seconds
        try:
            while not stop.is_set():
                self.refill()
                if not self.queue:
                    break
                self.presence.set_busy(True)
                drawn += self.draw_batch()
                self.upload_complete()
                self.presence.images_per_second = round(drawn / (time.monotonic() - started), 3)
            return drawn > 0
        finally:
            self.settle()

    def settle(self) -> None:
        """Wait for the uploads, give the rest back; then raise what an upload met, such as a store that is away."""
        wait(self.uploading)
        uploads, self.uploading = self.uploading, set()
        try:
            self.give_back()
        finally:
            self.presence.set_busy(False)
        for upload in uploads:
            upload.result()

    def refill(self) -> None:
        """Claim ahead so that the next batch is full, as long as the recipe stays the same."""
        self.forget_lost()
        while len(self.queue) < self.settings.batch_size:
            claimed = self.next_leases or self.claim()
            self.next_leases = []
            if not claimed:
                return
            shard_ids = {lease.shard_id for lease in claimed}
            if self.queue and claimed[0].recipe_digest != self.recipe_digest:
                self.next_leases = claimed  # another recipe waits until this one's slots are drawn
                return
            if not attempt(partial(self.accept, claimed), on_failure=partial(self.give_up, shard_ids)):
                self.count_failure()

    def claim(self) -> list[ShardLease]:
        """A few pending shards, unless this worker has gone on for long enough."""
        if time.monotonic() > self.claim_until:
            return []
        shards = -(-self.settings.batch_size // self.settings.shard_slots) + 1
        with self.database.write() as session:
            claimed = leases.claim_shards(
                session,
                worker=self.presence.id,
                models=self.models,
                limit=shards,
                lease_seconds=self.settings.lease_seconds,
            )
        # After the machine slept, a shard can come back before its old slots were forgotten here.
        self.forget({lease.shard_id for lease in claimed})
        self.keeper.add(claimed)
        return claimed

    def accept(self, claimed: list[ShardLease]) -> None:
        with self.database.read() as session:
            row = session.get_one(tables.Recipe, claimed[0].recipe_digest)
        recipe = Recipe.model_validate(row.recipe)
        self.load(row.model, recipe)
        self.recipe_digest = row.digest
        for lease in claimed:
            shard = ShardWork(lease, recipe, row.model)
            self.works[lease.shard_id] = shard
            self.queue.extend(shard.slots())

    def load(self, model: str, recipe: Recipe) -> None:
        entry = model_of_digest(self.settings, model, recipe.model_digest)
        if self.generator is None or self.generator[0] != model:
            self.generator = None  # free the old weights first
            self.generator = (model, Generator(entry.path(self.settings), self.device))

    def forget_lost(self) -> None:
        lost = {shard_id for shard_id in self.works if not self.keeper.is_held(shard_id)}
        if lost:
            logger.info("shards lost or no longer wanted", extra={"shards": sorted(lost)})
            self.forget(lost)

    def forget(self, shard_ids: set[int]) -> list[ShardLease]:
        for shard_id in shard_ids:
            self.works.pop(shard_id, None)
        self.queue = deque(slot for slot in self.queue if slot.shard_id not in shard_ids)
        return self.keeper.drop(shard_ids)

    def draw_batch(self) -> int:
        """Draw one batch; if that fails, every shard in it loses this attempt. Returns the images drawn."""
        batch = next_batch(self.queue, self.settings.batch_size)
        shard_ids = {slot.shard_id for slot in batch}
        if attempt(partial(self.draw, batch), on_failure=partial(self.give_up, shard_ids)):
            self.failures = 0
            return len(batch)
        self.count_failure()
        return 0

    def count_failure(self) -> None:
        """A GPU can fail for good within one process; then the next shards belong to a fresh one."""
        self.failures += 1
        if self.failures == MOST_FAILURES:
            raise SystemExit(f"{MOST_FAILURES} failures in a row; see the log")

    def draw(self, batch: list[Slot]) -> None:
        assert self.generator is not None
        recipe = self.works[batch[0].shard_id].recipe
        drawings = [self.works[slot.shard_id].drawing(slot) for slot in batch]
        prompts = [drawing.prompt.text for drawing in drawings]
        images = self.generator[1].draw(prompts, [drawing.seed for drawing in drawings], recipe)
        again = take_images(self.works, list(zip(batch, drawings, strict=True)), images)
        # Rejected slots go first: their shard is the one nearest to completion.
        self.queue.extendleft(reversed(again))

    def give_up(self, shard_ids: set[int], reason: str) -> None:
        for lease in self.forget(shard_ids):
            self.give_up_lease(lease, reason)

    def give_up_lease(self, lease: ShardLease, reason: str) -> None:
        with self.database.write() as session:
            leases.give_up(session, lease, reason=reason, max_attempts=self.settings.max_attempts)

    def upload_complete(self) -> None:
        """Hand complete shards to the upload threads; a slow store slows the drawing, one that is away ends it."""
        for shard in [shard for shard in self.works.values() if shard.is_complete]:
            del self.works[shard.lease.shard_id]  # the keeper goes on extending until it is committed
            self.uploading.add(self.uploads.submit(self.upload, shard))
        if len(self.uploading) > MOST_UPLOADS:
            wait(self.uploading, return_when=FIRST_COMPLETED)
        for upload in [upload for upload in self.uploading if upload.done()]:
            self.uploading.remove(upload)
            upload.result()

    def upload(self, shard: ShardWork) -> None:
        try:
            attempt(partial(self.store_shard, shard), on_failure=partial(self.give_up_lease, shard.lease))
        except Unavailable:
            with self.database.write() as session:
                leases.release(session, [shard.lease])
            raise
        finally:
            self.keeper.drop([shard.lease.shard_id])

    def store_shard(self, shard: ShardWork) -> None:
        """Encode, store, verify, commit: off the critical path."""
        data = pack(shard.samples())
        stored = StoredShard(
            shard.lease.object_key,
            len(data),
            hashlib.sha256(data).hexdigest(),
            len(shard.accepted),
            tuple(sorted(shard.short)),
            dict(shard.rejections),
        )
        self.store.put(stored.object_key, data)
        self.commit(shard.lease, stored)

    def commit(self, lease: ShardLease, stored: StoredShard) -> None:
        """Repeats after a lost connection: `leases.commit` knows whether the first COMMIT got through."""
        for number in range(1, COMMIT_TRIES + 1):
            try:
                with self.database.write() as session:
                    leases.commit(session, lease, stored)
                logger.info("shard stored", extra={"shard_id": lease.shard_id, "images": stored.accepted})
                return
            except LostLease as problem:
                logger.warning("fenced out", extra={"shard_id": lease.shard_id, "reason": problem.detail})
                self.store.delete(stored.object_key)
                return
            except OperationalError:
                if number == COMMIT_TRIES:
                    raise
                time.sleep(number)

    def give_back(self) -> None:
        """With no upload under way, every lease still held is unfinished: back to the queue, attempts uncounted."""
        self.works.clear()
        self.queue.clear()
        self.next_leases = []
        with self.database.write() as session:
            leases.release(session, self.keeper.drop_all())
