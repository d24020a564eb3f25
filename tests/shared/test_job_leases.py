from datetime import timedelta

import pytest
from sqlalchemy import update

from shared import job_leases
from shared.database import Database, database_now
from shared.errors import LostLease
from shared.job_leases import JobLease
from shared.tables import Job
from tests.rows import add_job, job_of

HELD_SECONDS = 100.0


def claimed(database: Database) -> JobLease:
    """A training that a worker holds since a while."""
    with database.write() as session:
        add_job(session, "training")
        lease = job_leases.claim_job(session, "training", worker="w", lease_seconds=60)
        assert lease is not None
        since = database_now(session) - timedelta(seconds=HELD_SECONDS)
        session.execute(update(Job).where(Job.id == lease.job_id).values(claimed_at=since))
    return lease


@pytest.mark.parametrize("ending", ["finish", "release", "fail", "cancel"])
def test_the_seconds_a_job_was_held_are_its_cost_however_that_ended(database: Database, ending: str) -> None:
    lease = claimed(database)
    with database.write() as session:
        if ending == "finish":
            job_leases.finish_job(session, lease, {"key": "encoder"})
        elif ending == "release":
            job_leases.release_job(session, lease, count_attempt=False)
        elif ending == "fail":
            job_leases.fail_job(session, lease, {"detail": "broken"})
        else:
            job_leases.cancel_job(session, lease)
    job = job_of(database, lease.job_id)
    assert (job.spent_seconds, job.claimed_at) == (pytest.approx(HELD_SECONDS, abs=5), None)


def test_an_expired_lease_costs_until_it_ran_out(database: Database) -> None:
    lease = claimed(database)
    with database.write() as session:
        ran_out = database_now(session) - timedelta(seconds=40)
        session.execute(update(Job).where(Job.id == lease.job_id).values(lease_until=ran_out))
        assert job_leases.expire_jobs(session, max_attempts=5) == 1
    assert job_of(database, lease.job_id).spent_seconds == pytest.approx(HELD_SECONDS - 40, abs=5)


def test_each_holder_adds_to_the_cost(database: Database) -> None:
    lease = claimed(database)
    with database.write() as session:
        job_leases.release_job(session, lease, count_attempt=True)
        again = job_leases.claim_job(session, "training", worker="v", lease_seconds=60)
        assert again is not None
        job_leases.finish_job(session, again, {})
    assert job_of(database, lease.job_id).spent_seconds == pytest.approx(HELD_SECONDS, abs=5)


def test_finishing_again_after_an_ambiguous_commit_changes_nothing(database: Database) -> None:
    lease = claimed(database)
    for _ in range(2):
        with database.write() as session:
            job_leases.finish_job(session, lease, {"key": "encoder"})
    job = job_of(database, lease.job_id)
    assert (job.state, job.spent_seconds) == ("succeeded", pytest.approx(HELD_SECONDS, abs=5))


def test_a_holder_that_was_replaced_adds_nothing(database: Database) -> None:
    old = claimed(database)
    with database.write() as session:
        job_leases.release_job(session, old, count_attempt=True)
        job_leases.claim_job(session, "training", worker="v", lease_seconds=60)
    with database.write() as session, pytest.raises(LostLease):
        job_leases.finish_job(session, old, {})
    assert job_of(database, old.job_id).spent_seconds == pytest.approx(HELD_SECONDS, abs=5)
