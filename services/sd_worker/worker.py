"""Claims shards, draws their slots in batches that span shards, stores and commits each shard when it is complete."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from shared.vision.device import choose_device

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared import leases, tables
from shared.errors import ConfigurationError
from shared.fitness import Fitness
from shared.leases import ShardLease
from shared.models import model_of_digest, registered, verify_weights
from shared.schema import open_database
from shared.settings import Settings
from shared.specs import Recipe
from shared.storage import ObjectStore, open_store
from shared.tasks import attempt
from shared.watchdog import Watchdog, pending_shards
from shared.workers import Presence

from .generate import ShardWork, Slot, next_batch, take_images
from .health import Readiness
from .keeper import LeaseKeeper
from .uploads import Uploads

logger = logging.getLogger(__name__)
MOST_FAILURES = 3


class Generator(Protocol):
    """A loaded model: one image per prompt and seed, (N, height, width, 3) in 0..1."""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> NDArray[np.float32]: ...


MakeGenerator = Callable[[Path, torch.device], Generator]


def load_generator(folder: Path, device: torch.device) -> Generator:
    from . import generators  # diffusers takes seconds to import, and not every worker draws with it

    return generators.load_generator(folder, device)


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

    def __init__(self, settings: Settings, *, make_generator: MakeGenerator = load_generator) -> None:
        self.settings = settings
        self._make_generator = make_generator
        self.database = open_database(settings.sqlalchemy_url)
        self.store: ObjectStore = open_store(settings)
        self.device = choose_device(settings.device)
        self.models, problems = usable_models(settings)
        for name, problem in problems.items():
            logger.warning("model cannot be used here", extra={"model": name, "reason": problem})
        self.presence = Presence(self.database, "generate", device=str(self.device), models=self.models)
        self.keeper = LeaseKeeper(self.database, lease_seconds=settings.lease_seconds)
        self.fitness = Fitness(self.presence, [self.store.check])
        self.uploads = Uploads(settings, self.database, self.store, keeper=self.keeper, fitness=self.fitness)
        self.watchdog = Watchdog(
            settings,
            self.database,
            self.presence,
            pending=pending_shards(self.models),
            threads=[self.presence.thread, self.keeper.thread],
            holds_work=lambda: self.presence.busy or not self.keeper.is_empty,
        )
        self.readiness = Readiness(settings, self.database, self.store, problems)
        self.works: dict[int, ShardWork] = {}
        self.queue: deque[Slot] = deque()
        self.next_leases: list[ShardLease] = []
        self.is_alone = False
        self.recipe_digest: str | None = None
        self.claim_until = math.inf
        self.failures = 0
        self.generator: tuple[str, Generator] | None = None
        self.presence.start()
        self.keeper.start()
        self.readiness.start()

    def close(self) -> None:
        self.watchdog.stop()
        self.readiness.stop()
        self.keeper.stop()
        self.uploads.close()
        self.presence.stop()

    def work(self, stop: threading.Event) -> bool:
        """Draw until nothing is pending; when told to stop, give everything unfinished back."""
        self.watchdog.tried()
        self.fitness.require()
        started, drawn = time.monotonic(), 0
        self.claim_until = started + self.settings.drain_seconds
        try:
            while not stop.is_set():
                self.refill()
                if not self.queue:
                    break
                self.presence.set_busy(True)
                drawn += self.draw_batch()
                self.upload_complete(stop)
                self.presence.images_per_second = round(drawn / (time.monotonic() - started), 3)
            return drawn > 0
        finally:
            self.settle()

    def settle(self) -> None:
        """Wait for the uploads, give the rest back; then raise what an upload met, such as a store that is away."""
        ended = self.uploads.settle()
        try:
            self.give_back()
        finally:
            self.watchdog.tried()
            self.presence.set_busy(False)
        for upload in ended:
            upload.result()

    def refill(self) -> None:
        """Claim ahead so that the next batch is full, as long as the recipe stays the same."""
        self.forget_lost()
        while len(self.queue) < self.settings.batch_size:
            claimed = self.next_leases or self.claim()
            self.next_leases = []
            if not claimed:
                return
            if self.queue and claimed[0].recipe_digest != self.recipe_digest:
                self.next_leases = claimed  # another recipe waits until this one's slots are drawn
                return
            if not attempt(partial(self.accept, claimed), on_failure=partial(self.give_up, claimed)):
                self.count_failure()

    def claim(self) -> list[ShardLease]:
        """A few pending shards, unless this worker has gone on for long enough or cannot store what it would draw."""
        is_full_handed = not self.keeper.is_empty
        self.is_alone &= is_full_handed
        if self.is_alone or time.monotonic() > self.claim_until or not self.fitness.is_well():
            return []
        claimed_at = time.monotonic()
        with self.database.write() as session:
            claimed = leases.claim_shards(
                session,
                worker=self.presence.id,
                models=self.models,
                limit=-(-self.settings.batch_size // self.settings.shard_slots) + 1,
                lease_seconds=self.settings.lease_seconds,
            )
            claimed = self.set_suspects_apart(session, claimed, is_full_handed=is_full_handed)
        # After the machine slept, a shard can come back before its old slots were forgotten here.
        self.forget({lease.shard_id for lease in claimed})
        self.keeper.add(claimed, claimed_at=claimed_at)
        return claimed

    def set_suspects_apart(
        self, session: Session, claimed: list[ShardLease], *, is_full_handed: bool
    ) -> list[ShardLease]:
        """A shard that was lost before may have killed its worker: drawn alone it takes no other shard with it."""
        query = select(tables.Shard.id).where(
            tables.Shard.id.in_([lease.shard_id for lease in claimed]), tables.Shard.attempts > 1
        )
        suspects = set(session.scalars(query).all()) if claimed else set()
        if not suspects:
            return claimed
        self.is_alone = True
        if is_full_handed:
            chosen = [lease for lease in claimed if lease.shard_id not in suspects]
        else:
            chosen = [lease for lease in claimed if lease.shard_id in suspects][:1]
        leases.release(session, [lease for lease in claimed if lease not in chosen])
        return chosen

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
            self.generator = (model, self._make_generator(entry.path(self.settings), self.device))

    def forget_lost(self) -> None:
        lost = {shard_id for shard_id, shard in self.works.items() if not self.keeper.is_held(shard.lease)}
        if lost:
            logger.info("shards lost or no longer wanted", extra={"shards": sorted(lost)})
            self.forget(lost)

    def forget(self, shard_ids: set[int]) -> None:
        self.keeper.drop([self.works.pop(shard_id).lease for shard_id in shard_ids if shard_id in self.works])
        self.queue = deque(slot for slot in self.queue if slot.shard_id not in shard_ids)

    def draw_batch(self) -> int:
        """Draw one batch; if that fails, every shard in it loses this attempt. Returns the images drawn."""
        batch = next_batch(self.queue, self.settings.batch_size)
        drawn = [self.works[shard_id].lease for shard_id in {slot.shard_id for slot in batch}]
        if attempt(partial(self.draw, batch), on_failure=partial(self.give_up, drawn)):
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
        began = time.monotonic()
        images = self.generator[1].draw(prompts, [drawing.seed for drawing in drawings], recipe)
        seconds_per_slot = (time.monotonic() - began) / len(batch)
        for slot in batch:
            self.works[slot.shard_id].seconds += seconds_per_slot
        again = take_images(self.works, list(zip(batch, drawings, strict=True)), images)
        # Rejected slots go first: their shard is the one nearest to completion.
        self.queue.extendleft(reversed(again))

    def give_up(self, failed: list[ShardLease], reason: str) -> None:
        self.forget({lease.shard_id for lease in failed})
        self.keeper.drop(failed)  # those whose shard was never taken up
        with self.database.write() as session:
            for lease in failed:
                leases.give_up(session, lease, reason=reason, max_attempts=self.settings.max_attempts)

    def upload_complete(self, stop: threading.Event) -> None:
        for shard in [shard for shard in self.works.values() if shard.is_complete]:
            del self.works[shard.lease.shard_id]
            self.uploads.start(shard, stop)
        self.uploads.make_room()

    def give_back(self) -> None:
        """With no upload under way, every lease still held is unfinished: back to the queue, attempts uncounted."""
        self.works.clear()
        self.queue.clear()
        self.next_leases = []
        with self.database.write() as session:
            leases.release(session, self.keeper.drop_all())
