"""What a worker found out about images that are not finite, as an event of each dataset that waits for them."""

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from .lifecycle import record
from .tables import ACTIVE, DatasetShard, Event, Job

EVENT = "not-finite"


def note_not_finite(session: Session, shard_id: int, *, prompt: str, seed: int, detail: str) -> None:
    """One event for each live dataset that takes from the shard and has none yet."""
    has_one = select(Event.seq).where(Event.job_id == Job.id, Event.type == EVENT).exists()
    waiting = (
        select(Job.id)
        .join(DatasetShard, DatasetShard.job_id == Job.id)
        .where(DatasetShard.shard_id == shard_id, Job.state.in_(ACTIVE), ~has_one)
    )
    payload: dict[str, JsonValue] = {"prompt": prompt, "seed": seed, "detail": detail}
    for job_id in session.scalars(waiting.order_by(Job.id)).all():
        record(session, job_id, EVENT, payload)


def noted(session: Session, job_id: str) -> str | None:
    """The detail of the job's event."""
    query = select(Event.payload).where(Event.job_id == job_id, Event.type == EVENT).order_by(Event.seq).limit(1)
    payload = session.scalar(query)
    return str(payload["detail"]) if payload is not None else None
