"""Claims shards, draws their slots in batches that span shards, stores and commits each shard when it is complete."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch

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

from .batches import Batches, Generator, Order
from .claims import Claims
from .gate import NOT_FINITE
from .generate import ShardWork, Slot, next_batch
from .health import Readiness
from .keeper import LeaseKeeper
from .machine import Machine, machine_of
from .overflow_reports import OverflowReports
from .uploads import Uploads

logger = logging.getLogger(__name__)
MOST_FAILURES = 3
MakeGenerator = Callable[[Path, Machine], Generator]


def load_generator(folder: Path, machine: Machine) -> Generator:
    from . import generators  # diffusers takes seconds to import, and not every worker draws with it

    return generators.load_generator(folder, machine)


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
    """The generating worker's state: shards in hand, slots to draw, batches and uploads under way."""

    def __init__(self, settings: Settings, *, make_generator: MakeGenerator = load_generator) -> None:
        self.settings = settings
        self._make_generator = make_generator
        self.database = open_database(settings.sqlalchemy_url)
        self.store: ObjectStore = open_store(settings)
        self.machine = machine_of(settings)
        self.device = self.machine.device
        self.models, problems = usable_models(settings)
        for name, problem in problems.items():
            logger.warning("model cannot be used here", extra={"model": name, "reason": problem})
        self.presence = Presence(self.database, "generate", device=str(self.device), models=self.models)
        self.keeper = LeaseKeeper(self.database, lease_seconds=settings.lease_seconds)
        self.fitness = Fitness(self.presence, [self.store.check])
        self.claims = Claims(
            settings, self.database, self.presence, models=self.models, keeper=self.keeper, fitness=self.fitness
        )
        self.overflows = OverflowReports(settings, self.database, self.device)
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
        self.batches = Batches()
        self.next_leases: list[ShardLease] = []
        self.recipe_digest: str | None = None
        self.failures = self.drawn = 0
        self.generator: tuple[str, Generator] | None = None
        self.presence.start()
        self.keeper.start()
        self.readiness.start()

    def close(self) -> None:
        self.watchdog.stop()
        self.readiness.stop()
        self.keeper.stop()
        self.batches.close()
        self.uploads.close()
        self.presence.stop()

    def work(self, stop: threading.Event) -> bool:
        """Draw until nothing is pending; when told to stop, finish what was begun and give the rest back."""
        self.watchdog.tried()
        self.fitness.require()
        self.claims.open()
        started, self.drawn = time.monotonic(), 0
        try:
            while not stop.is_set() and self.turn():
                self.upload_complete(stop)
                self.presence.images_per_second = round(self.drawn / (time.monotonic() - started), 3)
            self.finish()
            self.upload_complete(stop)
            return self.drawn > 0
        finally:
            self.settle()

    def turn(self) -> bool:
        """Give the device a batch, take what is done; False when there is nothing to do."""
        self.refill()
        if not self.queue and self.batches.is_empty:
            return False
        self.presence.set_busy(True)
        if self.can_start():
            self.start_batch()
        elif self.batches.drawing:
            self.land()
        else:
            self.collect()
        if self.batches.must_land:
            self.land()
        while self.batches.must_collect:
            self.collect()
        return True

    def can_start(self) -> bool:
        """Whether there is a full batch; what is less waits for what the gate may send back."""
        return len(self.queue) >= self.machine.batch or (len(self.queue) > 0 and self.batches.is_empty)

    def finish(self) -> None:
        """Take all that is on the device."""
        while self.batches.drawing:
            self.land()
        while self.batches.encoding:
            self.collect()

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
        while len(self.queue) < self.machine.batch:
            claimed = self.next_leases or self.claim()
            self.next_leases = []
            if not claimed:
                return
            is_under_way = bool(self.queue) or not self.batches.is_empty
            if is_under_way and claimed[0].recipe_digest != self.recipe_digest:
                self.next_leases = claimed  # another recipe waits until this one's slots are drawn
                return
            accept = partial(self.on_device, [], partial(self.accept, claimed))
            if not attempt(accept, on_failure=partial(self.give_up, claimed)):
                self.count_failure()

    def claim(self) -> list[ShardLease]:
        claimed = self.claims.claim(images=self.machine.batch)
        # After the machine slept, a shard can come back before its old slots were forgotten here.
        self.forget({lease.shard_id for lease in claimed})
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
            machine = self.machine._replace(dtype=entry.dtype)
            self.generator = (model, self._make_generator(entry.path(self.settings), machine))

    def forget_lost(self) -> None:
        lost = {shard_id for shard_id, shard in self.works.items() if not self.keeper.is_held(shard.lease)}
        if lost:
            logger.info("shards lost or no longer wanted", extra={"shards": sorted(lost)})
            self.forget(lost)

    def forget(self, shard_ids: set[int]) -> None:
        self.keeper.drop([self.works.pop(shard_id).lease for shard_id in shard_ids if shard_id in self.works])
        self.queue = deque(slot for slot in self.queue if slot.shard_id not in shard_ids)

    def start_batch(self) -> None:
        generator = self.generator
        assert generator is not None
        slots = next_batch(self.queue, self.machine.batch)
        orders = [Order(self.works[slot.shard_id], slot) for slot in slots]
        self.try_on(orders, partial(self.batches.start, generator[1], orders))

    def land(self) -> None:
        self.try_on(self.batches.drawing[0].orders, self.batches.land)

    def collect(self) -> None:
        """Hand each image to its shard, unless that was lost meanwhile."""
        batch = self.batches.encoding.popleft()

        def take() -> None:
            results = [result for result in batch.results() if self.has(result[0])]
            taken = [order.shard.take(order.slot, drawing, encoded) for order, drawing, encoded in results]
            # Rejected slots go first: their shard is the one nearest to completion.
            self.queue.extendleft(slot for slot in reversed(taken) if slot is not None)
            self.drawn += len(taken)
            self.failures = 0
            for order, drawing, encoded in results:
                if encoded.verdict.reason == NOT_FINITE:
                    self.overflows.report(order.shard, drawing)

        self.try_on(batch.orders, take)

    def has(self, order: Order) -> bool:
        """A shard that was lost can be here again, by a later lease; then the work is another."""
        return self.works.get(order.slot.shard_id) is order.shard

    def try_on(self, orders: list[Order], action: Callable[[], None]) -> None:
        """If one step of a batch fails, every shard in it loses this attempt."""

        def give_up(reason: str) -> None:
            self.give_up(leases_of(filter(self.has, orders)), reason)

        if not attempt(partial(self.on_device, orders, action), on_failure=give_up):
            self.count_failure()

    def on_device(self, orders: list[Order], action: Callable[[], None]) -> None:
        """An error of the accelerator itself leaves a process that cannot draw any more.

        No batch under way can be told from the one that caused it.
        """
        try:
            action()
        except torch.AcceleratorError as error:
            reason = f"{self.device} failed: {error}"
            logger.error("the device failed, so this process ends", extra={"reason": reason})
            orders = [*orders, *(order for batch in self.batches.drawing for order in batch.orders)]
            self.give_up(leases_of(filter(self.has, orders)), reason)
            raise SystemExit(f"{reason}; a fresh process is due") from error

    def count_failure(self) -> None:
        """A GPU can fail for good within one process; then the next shards belong to a fresh one."""
        self.failures += 1
        if self.failures == MOST_FAILURES:
            raise SystemExit(f"{MOST_FAILURES} failures in a row; see the log")

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
        self.batches.drop()
        self.works.clear()
        self.queue.clear()
        self.next_leases = []
        with self.database.write() as session:
            leases.release(session, self.keeper.drop_all())


def leases_of(orders: Iterable[Order]) -> list[ShardLease]:
    return list({order.slot.shard_id: order.shard.lease for order in orders}.values())
