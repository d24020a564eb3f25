"""Deadlines and budgets: a dataset that reaches one stops softly, with equally many images of every class."""

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.orm import Session

from shared.database import clock
from shared.fairness import GROWING
from shared.lifecycle import record
from shared.tables import DatasetClass, Job

# Classes of a dataset that may stop at any moment differ by one tile at most, so its tiles are small.
MOST_SLOTS_TO_STOP_AT = 32
UNLIMITED = 2**62


def room_in_budget(job: Job) -> int:
    """Slots that may still be drawn anew."""
    return UNLIMITED if job.budget_images is None else max(job.budget_images - job.planned_images, 0)


def tile_slots(session: Session, job: Job, shard_slots: int) -> int:
    """Slots of this job's next tiles: what is left of a budget is divided between the classes furthest behind."""
    if job.deadline is not None or job.budget_seconds is not None:
        shard_slots = min(shard_slots, MOST_SLOTS_TO_STOP_AT)
    if job.budget_images is None:
        return shard_slots
    return min(shard_slots, max(1, room_in_budget(job) // classes_furthest_behind(session, job.id)))


def classes_furthest_behind(session: Session, job_id: str) -> int:
    behind = select(DatasetClass.planned).where(
        DatasetClass.job_id == job_id, DatasetClass.planned < DatasetClass.total
    )
    least = behind.order_by(DatasetClass.planned).limit(1).scalar_subquery()
    query = select(func.count()).select_from(DatasetClass)
    return session.scalars(query.where(DatasetClass.job_id == job_id, DatasetClass.planned == least)).one() or 1


def stop_due(session: Session) -> int:
    """Stop the datasets whose deadline passed or whose worker time is used up; returns how many."""
    late = Job.deadline <= clock()
    spent = Job.spent_seconds >= Job.budget_seconds
    due = select(Job.id, case((late, "deadline"), else_="worker_seconds")).where(GROWING, or_(late, spent))
    found = session.execute(due).all()
    for job_id, reason in found:
        stop(session, job_id, reason)
    return len(found)


def stop(session: Session, job_id: str, reason: str) -> None:
    """No planning and no claims from now on; shards that are being drawn still count."""
    stopped = session.scalar(
        update(Job)
        .where(Job.id == job_id, GROWING)
        .values(stop_reason=reason, version=Job.version + 1)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if stopped is not None:
        record(session, job_id, "stopping", {"reason": reason})


def explain_stop(session: Session, job: Job) -> str:
    """The limit, and how far every class came."""
    limits = {
        "deadline": f"its deadline {job.deadline:%Y-%m-%d %H:%M:%S %Z}" if job.deadline else "its deadline",
        "images": f"its budget of {job.budget_images:,} new images" if job.budget_images else "its budget of images",
        "worker_seconds": f"its budget of {job.budget_seconds} worker seconds",
    }
    least, most = session.execute(
        select(func.min(DatasetClass.done), func.max(DatasetClass.done)).where(DatasetClass.job_id == job.id)
    ).one()
    per_class = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"stopped at {limits[str(job.stop_reason)]} with {job.done:,} of {job.total:,} images, {per_class} per class"
