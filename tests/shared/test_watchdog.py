import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from sqlalchemy import update

from shared.database import Database, database_now
from shared.settings import Settings
from shared.tables import Worker
from shared.watchdog import Watchdog, pending_jobs, pending_shards
from shared.workers import Presence
from tests.addresses import free_port, redis_url
from tests.rows import add_dataset, add_job, plan_all

BROKER = redis_url()


@dataclass
class Dog:
    """A watchdog over a worker that has not tried to claim for longer than it may."""

    database: Database
    presence: Presence
    is_busy: bool = False
    threads: list[threading.Thread] = field(default_factory=list)

    def complaint(self, *, redis_url: str | None = None, seconds: float = 1e-6) -> str | None:
        settings = Settings(database_url="sqlite://", redis_url=redis_url, watchdog_seconds=seconds)
        watchdog = Watchdog(
            settings,
            self.database,
            self.presence,
            pending=pending_jobs("train"),
            threads=self.threads,
            holds_work=lambda: self.is_busy,
        )
        return watchdog.complaint()

    def ring(self) -> None:
        with self.database.write() as session:
            session.execute(update(Worker).values(rung_at=database_now(session)))


@pytest.fixture
def dog(database: Database) -> Dog:
    presence = Presence(database, "train", device="cpu")
    presence.beat()
    with database.write() as session:
        add_job(session, "training")
    return Dog(database, presence)


def test_a_worker_that_leaves_pending_work_alone_is_complained_about(dog: Dog) -> None:
    assert "has not tried to claim" in str(dog.complaint())


def test_a_worker_that_tried_lately_is_not(dog: Dog) -> None:
    assert dog.complaint(seconds=60) is None


def test_a_worker_at_work_may_take_any_time(dog: Dog) -> None:
    dog.is_busy = True
    assert dog.complaint() is None


def test_a_worker_without_work_may_wait_for_ever(database: Database) -> None:
    presence = Presence(database, "train", device="cpu")
    assert Dog(database, presence).complaint() is None


def test_a_worker_that_nobody_calls_is_not_to_blame(dog: Dog) -> None:
    assert dog.complaint(redis_url=BROKER) is None


@pytest.mark.redis
def test_a_worker_that_was_called_and_does_not_come_is_deaf(dog: Dog) -> None:
    dog.ring()
    assert "has not tried to claim" in str(dog.complaint(redis_url=BROKER))


def test_a_broker_that_is_away_is_no_reason_to_end(dog: Dog) -> None:
    dog.ring()
    assert dog.complaint(redis_url=f"redis://127.0.0.1:{free_port()}/0") is None


def test_a_thread_that_died_is_always_a_reason(dog: Dog) -> None:
    dog.is_busy = True
    dog.threads = [threading.Thread(name="leases")]
    assert dog.complaint() == "the thread 'leases' has died"


@pytest.mark.parametrize(("models", "is_pending"), [(["digits-sd"], True), (["sd14"], False)])
def test_only_shards_that_this_worker_could_draw_are_pending(
    database: Database, models: list[str], is_pending: bool
) -> None:
    with database.write() as session:
        job_id = add_dataset(session, images={"a": 1}).id
    plan_all(database, job_id)
    pending: Callable[..., bool] = pending_shards(models)
    with database.read() as session:
        assert pending(session) is is_pending
