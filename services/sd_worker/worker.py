"""Claims shards, draws their slots in batches that span shards, stores and commits each shard when it is complete."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import NoReturn

from shared import leases, tables
from shared.errors import ConfigurationError, Rejected
from shared.fitness import Fitness
from shared.leases import ShardLease
from shared.models import model_of_digest
from shared.patience import AWAY
from shared.schema import open_database
from shared.settings import Settings
from shared.specs import Recipe
from shared.storage import ObjectStore, open_store
from shared.tasks import attempt
from shared.watchdog import Watchdog, pending_shards
from shared.workers import Presence

from .batches import Batches, Order
from .claims import Claims
from .failures import device_fault
from .gate import NOT_FINITE
from .generate import ShardWork, Slot, next_batch
from .health import Readiness
from .keeper import LeaseKeeper
from .loading import MakeGenerator, Models, load_generator
from .machine import machine_of
from .overflow_reports import OverflowReports
from .uploads import Uploads

logger = logging.getLogger(__name__)
MOST_FAILURES = 3


class ShardWorker:
    """The generating worker's state: shards in hand, slots to draw, batches and uploads under way."""

    def __init__(self, settings: Settings, *, make_generator: MakeGenerator = load_generator) -> None:
        self.settings = settings
        self.database = open_database(settings.sqlalchemy_url, lock_seconds=settings.lock_seconds)
        self.store: ObjectStore = open_store(settings)
        self.machine = machine_of(settings)
        self.device = self.machine.device
        self.models = Models(settings, self.machine, make_generator)
        self.presence = Presence(self.database, "generate", device=str(self.device), models=self.models.names)
        self.keeper = LeaseKeeper(self.database, lease_seconds=settings.lease_seconds)
        self.fitness = Fitness(self.presence, [self.store.check])
        self.claims = Claims(
            settings, self.database, self.presence, models=self.models.names, keeper=self.keeper, fitness=self.fitness
        )
        self.overflows = OverflowReports(settings, self.database, self.device)
        self.uploads = Uploads(settings, self.database, self.store, keeper=self.keeper, fitness=self.fitness)
        self.watchdog = Watchdog(
            settings,
            self.database,
            self.presence,
            pending=pending_shards(self.models.names),
            threads=[self.presence.thread, self.keeper.thread],
            holds_work=lambda: self.presence.busy or not self.keeper.is_empty,
        )
        self.readiness = Readiness(settings, self.database, self.store, self.models.problems)
        self.works: dict[int, ShardWork] = {}
        self.queue: deque[Slot] = deque()
        self.batches = Batches()
        self.next_leases: list[ShardLease] = []
        self.recipe_digest: str | None = None
        self.failures = self.drawn = 0
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
        self.drawn = 0
        try:
            self.draw(stop)
        except SystemExit:
            self.settle_before_end()
            raise
        except BaseException:
            self.settle()
            raise
        self.settle()
        return self.drawn > 0

    def draw(self, stop: threading.Event) -> None:
        started = time.monotonic()
        while not stop.is_set() and self.turn():
            self.upload_complete(stop)
            self.presence.images_per_second = round(self.drawn / (time.monotonic() - started), 3)
        self.finish()
        self.upload_complete(stop)

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

    def settle_before_end(self) -> None:
        """A store or a database that is away must not keep a process alive that cannot draw: leases run out."""
        try:
            self.settle()
        except AWAY as problem:
            logger.warning("not everything was given back", extra={"reason": str(problem)})

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
        entry = model_of_digest(self.settings, row.model, recipe.model_digest)
        try:
            self.models.load(entry)
        except ConfigurationError as problem:
            self.leave_out(row.model, problem.detail, claimed)
            return
        self.recipe_digest = row.digest
        for lease in claimed:
            shard = ShardWork(lease, recipe, row.model)
            self.works[lease.shard_id] = shard
            self.queue.extend(shard.slots())

    def leave_out(self, model: str, problem: str, claimed: list[ShardLease]) -> None:
        """Other workers may draw it, so no shard loses an attempt; where none is left, the dispatcher fails the job."""
        self.models.leave_out(model, problem)
        self.presence.leave_out(model)
        with self.database.write() as session:
            leases.release(session, self.keeper.drop(claimed))

    def forget_lost(self) -> None:
        lost = {shard_id for shard_id, shard in self.works.items() if not self.keeper.is_held(shard.lease)}
        if lost:
            logger.info("shards lost or no longer wanted", extra={"shards": sorted(lost)})
            self.forget(lost)

    def forget(self, shard_ids: set[int]) -> None:
        self.keeper.drop([self.works.pop(shard_id).lease for shard_id in shard_ids if shard_id in self.works])
        self.queue = deque(slot for slot in self.queue if slot.shard_id not in shard_ids)

    def start_batch(self) -> None:
        slots = next_batch(self.queue, self.machine.batch)
        orders = [Order(self.works[slot.shard_id], slot) for slot in slots]
        self.try_on(orders, partial(self.batches.start, self.models.generator, orders))

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

        def give_up(reason: str, *, most_attempts: int | None = None) -> None:
            self.give_up(leases_of(filter(self.has, orders)), reason, most_attempts=most_attempts)

        def run() -> None:
            try:
                self.on_device(orders, action)
            except Rejected as problem:  # no worker can draw this
                give_up(problem.detail, most_attempts=1)
            except ConfigurationError as problem:  # such as too little memory: nothing is broken, others may have more
                give_up(problem.detail)

        if not attempt(run, on_failure=give_up):
            self.count_failure()

    def on_device(self, orders: list[Order], action: Callable[[], None]) -> None:
        """An error of the device itself ends the process."""
        try:
            action()
        except RuntimeError as error:
            fault = device_fault(error, self.device)
            if fault is None:
                raise
            self.end(f"{self.device} failed: {fault}", orders)

    def end(self, reason: str, orders: list[Order]) -> NoReturn:
        """No batch on the device can be told from the one that broke it."""
        logger.error("the device failed, so this process ends", extra={"reason": reason})
        orders = [*orders, *(order for batch in self.batches.drawing for order in batch.orders)]
        try:
            self.give_up(leases_of(filter(self.has, orders)), reason)
        except AWAY as problem:
            logger.warning("not everything was given back", extra={"reason": str(problem)})
        raise SystemExit(f"{reason}; a fresh process is due")

    def count_failure(self) -> None:
        """A GPU can fail for good within one process; then the next shards belong to a fresh one."""
        self.failures += 1
        if self.failures >= MOST_FAILURES:
            raise SystemExit(f"{MOST_FAILURES} failures in a row; see the log")

    def give_up(self, failed: list[ShardLease], reason: str, *, most_attempts: int | None = None) -> None:
        self.forget({lease.shard_id for lease in failed})
        self.keeper.drop(failed)  # those whose shard was never taken up
        with self.database.write() as session:
            for lease in failed:
                leases.give_up(session, lease, reason=reason, max_attempts=most_attempts or self.settings.max_attempts)

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
        try:
            with self.database.write() as session:
                leases.release(session, self.keeper.drop_all())
        finally:
            # Last: after a fault of the device, freeing its memory may abort the process.
            self.batches.drop()


def leases_of(orders: Iterable[Order]) -> list[ShardLease]:
    return list({order.slot.shard_id: order.shard.lease for order in orders}.values())
