"""Leases of whole jobs: a training or an evaluation belongs to one worker at a time, by the same fence rule."""

from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.orm import Session

from . import lifecycle
from .database import database_now
from .errors import LostLease
from .fairness import running_load
from .tables import Job, JsonObject, Team


class JobLease(NamedTuple):
    job_id: str
    fence: int
    attempts: int


Hold = Literal["held", "cancelled", "lost"]
# The kind's two letters and a dash come before the time-sortable part of an id.
TIME_PART = func.substr(Job.id, 4)


def claim_job(session: Session, *kinds: str, worker: str, lease_seconds: float) -> JobLease | None:
    """The next queued job of these kinds: of the team with least running for its weight, then priority, then age."""
    job = session.scalars(
        select(Job)
        .join(Team, Team.id == Job.team_id)
        .where(Job.kind.in_(kinds), Job.state == "queued", ~Job.cancel_requested)
        .order_by(running_load(kinds), Job.priority.desc(), TIME_PART)
        .limit(1)
        .with_for_update(of=Job, skip_locked=True)
    ).first()
    if job is None:
        return None
    job.lease_owner, job.claimed_at = worker, database_now(session)
    job.lease_until = job.claimed_at + timedelta(seconds=lease_seconds)
    job.fence += 1
    job.attempts += 1
    session.flush()
    lifecycle.transition(session, job.id, "running")
    return JobLease(job.id, job.fence, job.attempts)


def extend_job(session: Session, lease: JobLease, *, lease_seconds: float) -> Hold:
    until = database_now(session) + timedelta(seconds=lease_seconds)
    row = session.execute(
        update(Job)
        .where(Job.id == lease.job_id, Job.fence == lease.fence, Job.state == "running")
        .values(lease_until=until)
        .returning(Job.cancel_requested)
    ).first()
    if row is None:
        return "lost"
    return "cancelled" if row.cancel_requested else "held"


def write_held(session: Session, lease: JobLease, **values: object) -> None:
    """Update a job we hold; raises LostLease when another worker took it over or it ended."""
    updated = session.execute(
        update(Job)
        .where(Job.id == lease.job_id, Job.fence == lease.fence, Job.state == "running")
        .values(version=Job.version + 1, **values)
    )
    assert isinstance(updated, CursorResult)
    if updated.rowcount == 0:
        raise LostLease(f"job {lease.job_id} is no longer held with fence {lease.fence}")


def report_progress(session: Session, lease: JobLease, *, done: int, total: int) -> None:
    write_held(session, lease, done=done, total=total)
    lifecycle.record(session, lease.job_id, "progress", {"done": done, "failed": 0, "total": total})


def save_checkpoint(session: Session, lease: JobLease, checkpoint: JsonObject) -> None:
    write_held(session, lease, checkpoint=checkpoint)


def end_lease(session: Session, lease: JobLease, **values: object) -> None:
    """The job is held no longer; the seconds since its claim are what it cost."""
    claimed_at = session.scalar(select(Job.claimed_at).where(Job.id == lease.job_id))
    held_seconds = seconds_since(claimed_at, database_now(session))
    spent_seconds = Job.spent_seconds + held_seconds
    write_held(
        session, lease, lease_owner=None, lease_until=None, claimed_at=None, spent_seconds=spent_seconds, **values
    )


def seconds_since(claimed_at: datetime | None, now: datetime) -> float:
    """0 of a job that a version claimed which did not note when."""
    return 0.0 if claimed_at is None else max((now - claimed_at).total_seconds(), 0.0)


def finish_job(session: Session, lease: JobLease, result: JsonObject, *, failed: int = 0) -> None:
    """End well, unless the same lease already did (a repeated call after an ambiguous COMMIT).

    `failed` of the job's total could not be made: it ends partial.
    """
    state = "partial" if failed else "succeeded"
    job = session.get_one(Job, lease.job_id)
    if job.state == state and job.fence == lease.fence and job.result == result:
        return
    end_lease(session, lease, result=result, done=Job.total - failed, failed=failed)
    lifecycle.transition(session, lease.job_id, state)


def release_job(session: Session, lease: JobLease, *, count_attempt: bool) -> None:
    """Back to the queue; a clean stop does not count as an attempt."""
    attempts = lease.attempts if count_attempt else lease.attempts - 1
    end_lease(session, lease, attempts=attempts)
    lifecycle.transition(session, lease.job_id, "queued")


def fail_job(session: Session, lease: JobLease, error: JsonObject) -> None:
    end_lease(session, lease)
    lifecycle.transition(session, lease.job_id, "failed", error=error)


def cancel_job(session: Session, lease: JobLease) -> None:
    end_lease(session, lease)
    lifecycle.transition(session, lease.job_id, "cancelled")


def expire_jobs(session: Session, *, max_attempts: int) -> int:
    """Take back the jobs of silent workers: cancelled if that was asked, failed when attempts are used up."""
    lost = session.scalars(
        select(Job)
        .where(Job.state == "running", Job.kind != "dataset", Job.lease_until < database_now(session))
        .with_for_update(skip_locked=True)
    ).all()
    for job in lost:
        assert job.lease_until is not None
        job.spent_seconds += seconds_since(job.claimed_at, job.lease_until)
        job.lease_owner = job.lease_until = job.claimed_at = None
        session.flush()
        if job.cancel_requested:
            lifecycle.transition(session, job.id, "cancelled")
        elif job.attempts >= max_attempts:
            detail = f"the job was lost with its worker {job.attempts} times; see the worker's log"
            lifecycle.transition(session, job.id, "failed", error=lifecycle.failure("lost", detail, retryable=True))
        else:
            lifecycle.transition(session, job.id, "queued")
    return len(lost)
