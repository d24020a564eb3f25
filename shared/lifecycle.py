"""The only writer of job states: a closed set, terminal states never change, every change leaves an event."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from pydantic import JsonValue
from sqlalchemy import CursorResult, insert, select, update
from sqlalchemy.orm import Session, aliased

from .database import clock, database_now
from .errors import Conflict
from .tables import TERMINAL, Event, Job, JobParent, JsonObject
from .webhooks import announce

ALLOWED: dict[str, tuple[str, ...]] = {
    "waiting": ("queued", "failed", "cancelled"),
    "queued": ("running", "succeeded", "partial", "failed", "cancelled"),
    "running": ("queued", "succeeded", "partial", "failed", "cancelled"),
    "succeeded": (),
    "partial": (),
    "failed": (),
    "cancelled": (),
}


def sources(target: str) -> tuple[str, ...]:
    return tuple(state for state, targets in ALLOWED.items() if target in targets)


def record(session: Session, job_id: str, kind: str, payload: JsonObject) -> None:
    """Append an event; its sequence number is what a reader resumes from."""
    session.execute(insert(Event).values(job_id=job_id, type=kind, payload=payload, at=clock()))


def transition(session: Session, job_id: str, target: str, *, error: JsonObject | None = None) -> bool:
    """Move a job to `target` if its state allows that; False means somebody else moved it first."""
    now = database_now(session)
    values: dict[str, object] = {"state": target, "version": Job.version + 1}
    if target in TERMINAL:
        values |= {"finished_at": now, "lease_owner": None, "lease_until": None}
    if target == "running":
        values["started_at"] = now
    if error is not None:
        values["error"] = error
    moved = session.execute(update(Job).where(Job.id == job_id, Job.state.in_(sources(target))).values(**values))
    assert isinstance(moved, CursorResult)
    if moved.rowcount == 0:
        return False
    payload: dict[str, JsonValue] = {"state": target}
    if error is not None:
        payload["error"] = error
    record(session, job_id, "state", payload)
    if target in TERMINAL:
        announce(session, job_id, target, error=error)
    return True


def request_cancel(session: Session, job: Job) -> None:
    """Ask a job to stop. Work that holds no lease ends at once, the rest within a batch; accepted images stay."""
    if job.state in TERMINAL:
        raise Conflict(f"job {job.id} is already {job.state}; a finished job cannot be cancelled")
    if job.cancel_requested:
        return
    job.cancel_requested = True
    job.version += 1
    session.flush()
    if job.state == "waiting" or (job.state == "queued" and job.kind != "dataset"):
        transition(session, job.id, "cancelled")


def release_children(session: Session) -> int:
    """Queue jobs whose parents all ended well, fail those with a parent that did not; returns how many moved.

    An experiment reports what succeeded, so it waits for every parent to end, however that is.
    """
    moved = 0
    for (child_id, kind), rows in groupby(waiting_with_parents(session), lambda row: (row.id, row.kind)):
        parents = [(row.parent, row.state) for row in rows if row.parent is not None]
        bad = [(parent, state) for parent, state in parents if state in ("failed", "cancelled")]
        if bad and kind != "experiment":
            parent, state = bad[0]
            detail = f"{parent} ended {state}, so {child_id} cannot run; submit it again on a dataset that succeeded"
            moved += transition(session, child_id, "failed", error=failure("parent-failed", detail, retryable=False))
        elif all(state in TERMINAL for _, state in parents):
            moved += transition(session, child_id, "queued")
    return moved


class Waiting(NamedTuple):
    """A waiting job and one of its parents with that one's state, or none."""

    id: str
    kind: str
    parent: str | None
    state: str | None


def waiting_with_parents(session: Session) -> Sequence[Waiting]:
    """A row for each parent of each waiting job, or one without: an experiment has hundreds, and a spec is large."""
    parent = aliased(Job)
    query = (
        select(Job.id, Job.kind, parent.id.label("parent"), parent.state)
        .outerjoin(JobParent, JobParent.job_id == Job.id)
        .outerjoin(parent, parent.id == JobParent.parent_id)
        .where(Job.state == "waiting")
        .order_by(Job.id, parent.id)
    )
    return [Waiting(*row) for row in session.execute(query)]


def failure(code: str, detail: str, *, retryable: bool) -> JsonObject:
    """The error of a job, in the words of RFC 9457 plus whether trying again can help."""
    return {"type": f"urn:synthclone:problem:{code}", "detail": detail, "retryable": retryable}
