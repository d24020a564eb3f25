import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from shared.database import Database
from shared.endings import Ending
from shared.errors import Unavailable
from shared.job_consumer import JobConsumer, JobKeeper, Work
from shared.job_leases import JobLease, expire_jobs
from shared.lifecycle import request_cancel
from shared.settings import Settings
from shared.tables import Job, Worker
from tests.addresses import free_port
from tests.rows import add_job, state_of

LEASE_SECONDS = 0.6


@pytest.fixture
def work_once(database: Database, database_url: str, tmp_path: Path) -> Callable[[Work], bool]:
    settings = Settings(database_url=database_url, data_dir=tmp_path, lease_seconds=LEASE_SECONDS, max_attempts=1)

    def run(do_work: Work) -> bool:
        consumer = JobConsumer(settings, "evaluate", do_work)
        try:
            return consumer.work(threading.Event())
        finally:
            consumer.close()

    return run


def add_evaluation(database: Database) -> str:
    with database.write() as session:
        return add_job(session, "evaluation").id


def succeed(lease: JobLease, stop_events: Sequence[threading.Event]) -> Ending:
    return Ending(result={"by": lease.job_id})


def test_without_a_job_there_is_no_work(work_once: Callable[[Work], bool]) -> None:
    assert not work_once(succeed)


def test_a_job_is_worked_on_and_settled(database: Database, work_once: Callable[[Work], bool]) -> None:
    row = add_evaluation(database)
    assert work_once(succeed)
    assert state_of(database, row) == "succeeded"


def test_work_longer_than_the_lease_keeps_it(database: Database, work_once: Callable[[Work], bool]) -> None:
    row = add_evaluation(database)

    def slow(lease: JobLease, stop_events: Sequence[threading.Event]) -> Ending:
        time.sleep(3 * LEASE_SECONDS)
        with database.write() as session:
            assert expire_jobs(session, max_attempts=5) == 0
        return succeed(lease, stop_events)

    work_once(slow)
    assert state_of(database, row) == "succeeded"


def test_work_on_a_cancelled_job_is_told_to_stop(database: Database, work_once: Callable[[Work], bool]) -> None:
    row = add_evaluation(database)

    def wait(lease: JobLease, stop_events: Sequence[threading.Event]) -> Ending:
        with database.write() as session:
            request_cancel(session, session.get_one(Job, row))
        return Ending(is_stopped=stop_events[1].wait(20))

    work_once(wait)
    assert state_of(database, row) == "cancelled"


def test_a_bug_in_the_work_fails_the_job_not_the_worker(database: Database, work_once: Callable[[Work], bool]) -> None:
    row = add_evaluation(database)

    def broken(lease: JobLease, stop_events: Sequence[threading.Event]) -> Ending:
        raise ZeroDivisionError("a bug")

    assert work_once(broken)
    with database.read() as session:
        job = session.get_one(Job, row)
    assert job.error is not None
    assert (job.state, "ZeroDivisionError: a bug" in str(job.error["detail"])) == ("failed", True)


def test_an_absent_part_of_the_service_makes_the_worker_wait(
    database: Database, work_once: Callable[[Work], bool]
) -> None:
    row = add_evaluation(database)
    with pytest.raises(Unavailable, match="no bucket"):
        work_once(lambda lease, stop_events: Ending(unavailable="no bucket"))
    assert state_of(database, row) == "queued"


def test_a_worker_at_work_is_busy(database: Database, work_once: Callable[[Work], bool]) -> None:
    add_evaluation(database)
    busy: list[bool] = []

    def look(lease: JobLease, stop_events: Sequence[threading.Event]) -> Ending:
        with database.read() as session:
            busy.extend(worker.busy for worker in session.query(Worker).all())
        return succeed(lease, stop_events)

    work_once(look)
    assert busy == [True]


def test_work_ends_before_its_lease_does_while_the_database_is_away() -> None:
    """Another worker may be the first to reach the database again, and then the lease is its own."""
    away = Database(f"postgresql://127.0.0.1:{free_port()}/nothing")
    keeper = JobKeeper(away, JobLease("tr-1", 1, 1), lease_seconds=3, claimed_at=time.monotonic())
    with keeper.kept():
        assert not keeper.must_end.wait(1.5)
        assert keeper.must_end.wait(1.5)


def test_a_worker_whose_disk_is_full_claims_no_job_and_says_so(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    row = add_evaluation(database)
    settings = Settings(database_url=database_url, data_dir=tmp_path, min_free_bytes=2**60)
    consumer = JobConsumer(settings, "evaluate", succeed)
    with pytest.raises(Unavailable, match="free some space"):
        consumer.work(threading.Event())
    consumer._presence.beat()
    with database.read() as session:
        assert "free some space" in str(session.query(Worker).one().problem)
        assert session.get_one(Job, row).attempts == 0
    consumer.close()
