"""Drops what has been kept long enough, a bounded batch at a time."""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import CursorResult, Delete, delete, func, or_, select, tuple_
from sqlalchemy.orm import Session

from shared.database import Database, database_now
from shared.settings import Settings
from shared.tables import Event, IdempotencyKey, Job, WebhookDelivery

logger = logging.getLogger(__name__)
BATCH = 1000
# Events looked at in one transaction; state changes stay, so most of the old ones do.
PAGE = 5000


def expire_old(database: Database, settings: Settings) -> Iterator[None]:
    """Pauses after each batch."""
    with database.read() as session:
        now = database_now(session)
    ended_before = now - timedelta(days=settings.event_days)
    answered_before = now - timedelta(hours=settings.idempotency_hours)
    yield from drop_all(database, partial(drop_answers, before=answered_before), what="idempotency keys")
    yield from drop_all(database, partial(drop_deliveries, before=ended_before), what="webhook deliveries")
    yield from drop_progress(database, before=ended_before)


def drop_all(database: Database, drop: Callable[[Session], int], *, what: str) -> Iterator[None]:
    dropped = BATCH
    while dropped == BATCH:
        with database.write() as session:
            dropped = drop(session)
        if dropped:
            logger.info("expired", extra={"what": what, "rows": dropped})
        yield


def drop_answers(session: Session, *, before: datetime) -> int:
    key = tuple_(IdempotencyKey.team_id, IdempotencyKey.route, IdempotencyKey.key)
    old = select(IdempotencyKey.team_id, IdempotencyKey.route, IdempotencyKey.key)
    old = old.where(IdempotencyKey.created_at < before).order_by(IdempotencyKey.created_at).limit(BATCH)
    return count_of(session, delete(IdempotencyKey).where(key.in_(old)))


def drop_deliveries(session: Session, *, before: datetime) -> int:
    ended = or_(WebhookDelivery.delivered_at < before, WebhookDelivery.failed_at < before)
    old = select(WebhookDelivery.id).where(ended).order_by(WebhookDelivery.id).limit(BATCH)
    return count_of(session, delete(WebhookDelivery).where(WebhookDelivery.id.in_(old)))


def drop_progress(database: Database, *, before: datetime) -> Iterator[None]:
    """Progress of jobs that ended before that, walking once over the events in their order of time."""
    seen, dropped = 0, 0
    while True:
        with database.write() as session:
            page = select(Event.seq, Event.at).where(Event.seq > seen).order_by(Event.seq).limit(PAGE).subquery()
            last, newest = session.execute(select(func.max(page.c.seq), func.max(page.c.at))).one()
            if last is None:
                break
            ended = select(Job.id).where(Job.id == Event.job_id, Job.finished_at < before).exists()
            stale = delete(Event).where(Event.seq > seen, Event.seq <= last, Event.type == "progress", ended)
            dropped += count_of(session, stale)
        if newest >= before:
            break  # what follows is younger, so its jobs ended later
        seen = last
        yield
    if dropped:
        logger.info("expired", extra={"what": "progress events", "rows": dropped})


def count_of(session: Session, statement: Delete) -> int:
    result = session.execute(statement)
    assert isinstance(result, CursorResult)
    return result.rowcount
