"""Every job row is made here, with its first event and its parents, in the caller's transaction.

A retry is a new job. Its spec and class texts are copied from the old rows, so it cannot drift.
"""

from collections.abc import Sequence
from importlib.metadata import version

from sqlalchemy import insert, literal, select
from sqlalchemy.orm import Session

from shared.database import database_now
from shared.errors import Conflict, Rejected
from shared.ids import job_id
from shared.lifecycle import record
from shared.tables import TERMINAL, DatasetClass, Job, JobParent, JsonObject

VERSION = version("synthclone")
RETRIABLE = ("failed", "cancelled", "partial")
# Where a request names a parent; elsewhere in a list of ids, at the parent's position.
POINTERS = {"training": "/training", "dataset": "/dataset", "distances": "/distances/{}/dataset"}
COPIED = ("position", "class_id", "class_key", "text", "total")


def add_job(
    session: Session,
    *,
    kind: str,
    team: str,
    spec: JsonObject,
    total: int,
    priority: int,
    parents: Sequence[Job] = (),
    retry_of: str | None = None,
) -> Job:
    """Waiting while a parent is not finished, else queued."""
    state = "queued" if all(parent.state in TERMINAL for parent in parents) else "waiting"
    job = Job(
        id=job_id(kind),
        kind=kind,
        team_id=team,
        state=state,
        priority=priority,
        spec=spec,
        total=total,
        created_at=database_now(session),
    )
    session.add(job)
    session.flush()
    session.add_all(JobParent(job_id=job.id, parent_id=parent.id) for parent in parents)
    payload: JsonObject = {"state": state}
    if retry_of is not None:
        payload["retry_of"] = retry_of
    record(session, job.id, "state", payload)
    session.flush()
    return job


def usable_parents(session: Session, ids: Sequence[str], *, kind: str, team: str, field: str) -> list[Job]:
    """The jobs with these ids, in this order; raises Rejected for one that is unknown or ended badly."""
    # PostgreSQL refuses a question with a NUL in it.
    asked = [parent_id for parent_id in ids if parent_id.isprintable()]
    found = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(asked), Job.team_id == team))}
    place = POINTERS.get(field, f"/{field}/{{}}")
    return [
        usable(found.get(parent_id), parent_id, kind=kind, pointer=place.format(position))
        for position, parent_id in enumerate(ids)
    ]


def usable(job: Job | None, parent_id: str, *, kind: str, pointer: str | None = None) -> Job:
    if job is None or job.kind != kind:
        raise Rejected(f"there is no {kind} {parent_id!r}; see GET /jobs?kind={kind}", pointer=pointer)
    if job.state in ("failed", "cancelled"):
        raise Rejected(f"{kind} {parent_id} {ended(job.state)}; POST /jobs/{parent_id}/retry", pointer=pointer)
    return job


def ended(state: str) -> str:
    return "was cancelled" if state == "cancelled" else "has failed"


def add_retry(session: Session, old: Job) -> Job:
    """Raises Conflict unless the old job ended without everything it was to make."""
    if old.state not in RETRIABLE:
        raise Conflict(f"job {old.id} is {old.state}; only a {', '.join(RETRIABLE)} job can be asked for again")
    job = add_job(
        session,
        kind=old.kind,
        team=old.team_id,
        spec=old.spec,
        total=old.total,
        priority=old.priority,
        parents=parents_of(session, old),
        retry_of=old.id,
    )
    if old.kind == "dataset":
        copy_limits(session, old, job)
        copy_classes(session, old.id, job.id)
    return job


def parents_of(session: Session, old: Job) -> list[Job]:
    """Of whatever kinds they are; raises Rejected for one that ended badly."""
    query = select(Job).join(JobParent, JobParent.parent_id == Job.id).where(JobParent.job_id == old.id)
    return [usable(job, job.id, kind=job.kind) for job in session.scalars(query.order_by(Job.id))]


def copy_limits(session: Session, old: Job, new: Job) -> None:
    """The same budget anew; a deadline that has passed would stop the retry at once."""
    new.budget_images, new.budget_seconds = old.budget_images, old.budget_seconds
    if old.deadline is not None and old.deadline > database_now(session):
        new.deadline = old.deadline


def copy_classes(session: Session, old_id: str, new_id: str) -> None:
    columns = [DatasetClass.__table__.c[name] for name in COPIED]
    # planned, done, failed and rejected start at 0 again.
    counters = [literal(0)] * 4
    rows = select(literal(new_id), *columns, *counters).where(DatasetClass.job_id == old_id)
    names = ["job_id", *COPIED, "planned", "done", "failed", "rejected"]
    session.execute(insert(DatasetClass).from_select(names, rows))
