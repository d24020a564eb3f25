"""`/jobs/{id}/events`: what happens to a job, as server-sent events that can be resumed."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from shared.database import Database
from shared.errors import Unavailable
from shared.settings import Settings

from .dependencies import ServerDatabase, TeamId
from .event_hub import Channel, EventHub
from .jobs import find_job
from .problems import documented
from .rate_limit import TooManyRequests

router = APIRouter(tags=["jobs"])
RETRY_SECONDS = 30


class StreamSlots:
    """How many streams one process keeps open; with keys no team can have more than half of them."""

    def __init__(self, settings: Settings) -> None:
        self.most = settings.max_streams
        self.most_of_team = self.most if settings.auth == "off" else max(1, self.most // 2)
        self.open: Counter[str] = Counter()

    @contextmanager
    def taken(self, team: str) -> Iterator[None]:
        if self.open.total() >= self.most:
            raise Unavailable(f"{self.most} event streams are open; poll GET /jobs/{{id}}, or try again later")
        if self.open[team] >= self.most_of_team:
            raise TooManyRequests(
                f"your team has {self.most_of_team} event streams open; close some, or poll GET /jobs/{{id}}",
                retry_seconds=RETRY_SECONDS,
            )
        self.open[team] += 1
        try:
            yield
        finally:
            self.open[team] -= 1
            self.open += Counter()  # drops teams with none


async def watched_channel(
    request: Request, job_id: str, database: ServerDatabase, team: TeamId
) -> AsyncIterator[Channel]:
    """Refusals come before the stream starts: afterwards the status can no longer be 404 or 503."""
    slots, hub = request.app.state.stream_slots, request.app.state.event_hub
    assert isinstance(slots, StreamSlots)
    assert isinstance(hub, EventHub)
    with slots.taken(team):
        await run_in_threadpool(check_job, database, job_id, team)
        with hub.watching(job_id) as channel:
            yield channel


def check_job(database: Database, job_id: str, team: str) -> None:
    with database.read() as session:
        find_job(session, job_id, team)


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, responses=documented(404))
async def stream_job_events(
    request: Request,
    job_id: str,
    channel: Annotated[Channel, Depends(watched_channel)],
    last_event_id: Annotated[int, Header(ge=0, lt=2**63, description="Events after this one only.")] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Every event of a job, old ones first; ends after the one that ends the job.

    A comment every 15 seconds keeps an idle stream open. Should it end early, ask again with the id of the last event.
    """
    async for event in request.app.state.event_hub.follow(channel, last_event_id):
        yield ServerSentEvent(id=str(event.seq), event=event.type, data=event.payload)
