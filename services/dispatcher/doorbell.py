"""One ring per idle worker while its kind of work is pending; a lost ring is rung again."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.database import database_now
from shared.queue import JOB_KINDS, KINDS, Kind
from shared.tables import Job, Shard, Worker
from shared.workers import live_workers


def has_work(session: Session, kind: Kind) -> bool:
    if kind == "generate":
        return session.scalar(select(Shard.id).where(Shard.state == "pending").limit(1)) is not None
    query = select(Job.id).where(Job.kind.in_(JOB_KINDS[kind]), Job.state == "queued").limit(1)
    return session.scalar(query) is not None


def is_due(worker: Worker, now: datetime, again: timedelta) -> bool:
    return not worker.busy and (worker.rung_at is None or worker.rung_at + again <= now)


def due_rings(session: Session, *, ring_again_seconds: float) -> list[Kind]:
    """The bells to ring now, marked as rung; publish them only after this transaction is committed."""
    now, again = database_now(session), timedelta(seconds=ring_again_seconds)
    rings: list[Kind] = []
    for kind in KINDS:
        if not has_work(session, kind):
            continue
        for worker in live_workers(session, kind):
            if is_due(worker, now, again):
                worker.rung_at = now
                rings.append(kind)
    return rings
