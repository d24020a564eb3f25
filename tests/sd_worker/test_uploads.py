"""What becomes of drawn shards while the store, the database or the lease is away, through the real worker."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from services.sd_worker.uploads import MOST_UPLOADS, Uploads
from services.sd_worker.worker import ShardWorker
from shared import lifecycle
from shared.errors import Unavailable
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import Job, Worker
from shared.tasks import drain
from tests.faults.noise import Noise
from tests.processes import wait_until

from .place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data")


@contextmanager
def working(place: Place, **settings: object) -> Iterator[ShardWorker]:
    worker = ShardWorker(
        Settings.model_validate(place.settings.model_dump() | {"upload_seconds": 60} | settings), make_generator=Noise
    )
    try:
        yield worker
    finally:
        worker.close()


@contextmanager
def in_thread(worker: ShardWorker, stop: threading.Event) -> Iterator[list[Unavailable]]:
    """The worker at work; yields what it raised, once it has ended."""
    raised: list[Unavailable] = []

    def work() -> None:
        try:
            worker.work(stop)
        except Unavailable as problem:
            raised.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield raised
    finally:
        thread.join(60)
        assert not thread.is_alive()


def shut(place: Place) -> Path:
    """Makes the store refuse shards: a file lies where their folder would be."""
    blocker = place.settings.objects_dir / "images"
    blocker.parent.mkdir(parents=True, exist_ok=True)
    blocker.write_text("in the way")
    return blocker


def problem_of(place: Place) -> str | None:
    with place.database.read() as session:
        return session.scalar(select(Worker.problem))


def test_a_drawn_shard_waits_for_its_store_and_is_not_drawn_again(place: Place) -> None:
    job_id, blocker = place.dataset(per_class=4), shut(place)
    with working(place) as worker, in_thread(worker, threading.Event()):
        wait_until(lambda: problem_of(place), seconds=20, what="the worker saying that its store is away")
        blocker.unlink()
    job = place.ended(job_id)
    assert job is not None
    assert (job.state, job.done) == ("succeeded", 8)
    assert place.shard_states() == {("done", 1)}


def test_a_worker_told_to_stop_does_not_wait_for_its_store(place: Place) -> None:
    place.dataset(per_class=4)
    shut(place)
    stop = threading.Event()
    with working(place) as worker, in_thread(worker, stop) as raised:
        wait_until(lambda: problem_of(place), seconds=20, what="the worker saying that its store is away")
        stop.set()
    assert "in the way" not in str(raised[0])
    assert "cannot write" in str(raised[0])
    assert place.shard_states() == {("pending", 0)}


def test_a_worker_whose_disk_is_full_claims_nothing_and_says_so(place: Place) -> None:
    place.dataset(per_class=4)
    with working(place, min_free_bytes=2**60) as worker:
        with pytest.raises(Unavailable, match="free some space"):
            worker.work(threading.Event())
        worker.presence.beat()
    assert worker.presence.problem is not None
    assert place.shard_states() == {("pending", 0)}


def test_a_late_worker_is_fenced_out_and_its_object_removed(place: Place) -> None:
    """As a stopped process that wakes up: its lease ran out and another worker drew the shard."""
    job_id = place.dataset(per_class=4)
    with working(place, lease_seconds=1) as late, working(place) as other:
        late.keeper.stop()
        late.turn()
        time.sleep(1.1)
        place.tick()
        drain(other, threading.Event(), seconds=30, pause_seconds=1)
        late.finish()
        late.upload_complete(threading.Event())
        late.settle()
    assert place.ended(job_id) is not None
    keys = {shard["key"] for shard in place.manifest(job_id)["shards"]}
    assert {entry.key for entry in place.store.entries("images/")} == keys


def test_a_late_upload_does_not_drop_the_newer_lease_of_its_shard(place: Place) -> None:
    place.dataset(per_class=4)
    with working(place) as worker:
        (older, *_) = worker.claim()
        newer = older._replace(fence=older.fence + 1)
        worker.keeper.add([newer], claimed_at=time.monotonic())
        assert worker.keeper.drop([older]) == []
        assert worker.keeper.is_held(newer)
        assert not worker.keeper.is_held(older)


def test_shards_of_a_cancelled_dataset_are_given_back_at_the_next_extension(place: Place) -> None:
    job_id = place.dataset(per_class=4)
    with working(place) as worker:
        claimed = worker.claim()
        with place.database.write() as session:
            lifecycle.request_cancel(session, session.get_one(Job, job_id))
        worker.keeper.renew()
        assert place.shard_states() == {("pending", 0)}
        assert not any(worker.keeper.is_held(lease) for lease in claimed)


def test_a_complete_shard_of_a_cancelled_dataset_stays_for_others(place: Place) -> None:
    job_id = place.dataset(per_class=4)
    with working(place) as worker:
        (lease, *_) = worker.claim()
        worker.keeper.complete(lease)
        with place.database.write() as session:
            lifecycle.request_cancel(session, session.get_one(Job, job_id))
        worker.keeper.renew()
        assert not worker.keeper.was_taken(lease)
    assert ("leased", 1) in place.shard_states()


class SlowStore(LocalStore):
    """Takes nothing until it is opened."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.is_open = threading.Event()

    def put(self, key: str, data: bytes) -> None:
        self.is_open.wait(60)
        super().put(key, data)


def test_a_slow_store_stops_the_drawing(place: Place) -> None:
    place.settings = place.settings.model_copy(update={"shard_slots": 1})
    place.dataset(per_class=16)
    store = SlowStore(place.settings.objects_dir)
    with working(place, batch_size=1) as worker:
        worker.uploads = Uploads(worker.settings, worker.database, store, keeper=worker.keeper, fitness=worker.fitness)
        with in_thread(worker, threading.Event()):
            try:
                wait_until(lambda: worker.drawn > MOST_UPLOADS or None, seconds=20, what="as many shards as may wait")
                time.sleep(0.5)
                assert worker.drawn <= MOST_UPLOADS + 2
            finally:
                store.is_open.set()
    assert place.shard_states() == {("done", 1)}
