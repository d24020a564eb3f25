import pytest
from sqlalchemy.exc import OperationalError

from shared.database import Database
from shared.endings import Ending, ending_of, settle
from shared.errors import AppError, CorruptObject, LostLease, Unavailable
from shared.job_leases import JobLease, claim_job
from shared.lifecycle import request_cancel
from shared.tables import Job, JsonObject
from tests.rows import add_job

FAILURE: JsonObject = {"type": "urn:synthclone:problem:rejected", "detail": "no", "retryable": False}


def claimed(database: Database) -> JobLease:
    with database.write() as session:
        add_job(session, "training")
    with database.write() as session:
        lease = claim_job(session, "training", worker="w", lease_seconds=60)
    assert lease is not None
    return lease


def settled(database: Database, lease: JobLease, ending: Ending, *, max_attempts: int = 2) -> Job:
    with database.write() as session:
        settle(session, lease, ending, max_attempts=max_attempts)
    with database.read() as session:
        return session.get_one(Job, lease.job_id)


@pytest.mark.parametrize(
    ("ending", "state", "attempts"),
    [
        (Ending(result={"steps": 3}), "succeeded", 1),
        (Ending(error=FAILURE), "failed", 1),
        (Ending(is_stopped=True), "queued", 0),
        (Ending(unavailable="no bucket"), "queued", 0),
        (Ending(crash="exit code 1"), "queued", 1),
    ],
)
def test_each_ending_moves_the_job(database: Database, ending: Ending, state: str, attempts: int) -> None:
    job = settled(database, claimed(database), ending)
    assert (job.state, job.attempts) == (state, attempts)


def test_the_last_crash_fails_the_job_with_its_reason(database: Database) -> None:
    job = settled(database, claimed(database), Ending(crash="exit code 9"), max_attempts=1)
    assert job.state == "failed"
    assert job.error is not None
    assert "exit code 9" in str(job.error["detail"])


def test_a_stopped_job_whose_cancellation_was_asked_is_cancelled(database: Database) -> None:
    lease = claimed(database)
    with database.write() as session:
        request_cancel(session, session.get_one(Job, lease.job_id))
    assert settled(database, lease, Ending(is_stopped=True)).state == "cancelled"


def test_work_of_a_lost_lease_changes_nothing(database: Database) -> None:
    lease = claimed(database)
    job = settled(database, lease._replace(fence=lease.fence - 1), Ending(result={"steps": 3}))
    assert (job.state, job.result) == ("running", None)


def fails(error: Exception) -> JsonObject:
    raise error


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (Unavailable("no bucket"), Ending(unavailable="no bucket")),
        (LostLease("gone"), Ending(is_stopped=True)),
        (
            CorruptObject("x.tar differs"),
            Ending(
                error={"type": "urn:synthclone:problem:corrupt-object", "detail": "x.tar differs", "retryable": False}
            ),
        ),
    ],
)
def test_expected_failures_become_endings(error: AppError, ending: Ending) -> None:
    assert ending_of(lambda: fails(error)) == ending


def test_an_unreachable_database_is_no_failure_of_the_job() -> None:
    ending = ending_of(lambda: fails(OperationalError("SELECT 1", None, Exception("no server"))))
    assert ending.unavailable is not None


def test_a_bug_rises() -> None:
    with pytest.raises(ZeroDivisionError):
        ending_of(lambda: fails(ZeroDivisionError()))


def test_work_that_returns_nothing_was_stopped() -> None:
    assert ending_of(lambda: None) == Ending(is_stopped=True)
