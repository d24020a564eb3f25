"""`/jobs/{id}/events`: what happens to a job, as server-sent events that can be resumed."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from shared.database import Database
from shared.tables import TERMINAL, Event, Job

from .dependencies import ServerDatabase, TeamId
from .jobs import find_job
from .problems import documented

logger = logging.getLogger(__name__)
router = APIRouter(tags=["jobs"])
POLL_SECONDS = 0.5
BATCH = 500


class Batch(NamedTuple):
    events: list[Event]
    is_last: bool


def watched_job(job_id: str, database: ServerDatabase, team: TeamId) -> str:
    """Checked before the stream starts: afterwards the status can no longer be 404."""
    with database.read() as session:
        return find_job(session, job_id, team).id


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, responses=documented(404))
async def stream_job_events(
    request: Request,
    job_id: Annotated[str, Depends(watched_job)],
    database: ServerDatabase,
    last_event_id: Annotated[int, Header(ge=0, lt=2**63, description="Events after this one only.")] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Every event of a job, old ones first; ends after the one that ends the job."""
    seen, is_last = last_event_id, False
    while not is_last and not request.app.state.stopping.is_set():
        events, is_last = await run_in_threadpool(read_events, database, job_id, seen)
        for event in events:
            seen = event.seq
            yield ServerSentEvent(id=str(event.seq), event=event.type, data=event.payload)
        if not is_last:
            await asyncio.sleep(POLL_SECONDS)


def read_events(database: Database, job_id: str, seen: int) -> Batch:
    try:
        with database.read() as session:
            # The state first: the events of a job that is terminal now are all committed.
            state = session.scalar(select(Job.state).where(Job.id == job_id))
            query = select(Event).where(Event.job_id == job_id, Event.seq > seen).order_by(Event.seq).limit(BATCH)
            events = list(session.scalars(query).all())
    except OperationalError as error:
        logger.warning("event stream waits for the database", extra={"job_id": job_id, "reason": str(error.orig)})
        return Batch([], is_last=False)
    return Batch(events, is_last=(state is None or state in TERMINAL) and len(events) < BATCH)
