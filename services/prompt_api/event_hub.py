"""The events of all watched jobs, read by one look at the database per round however many clients stream them.

A stream is no more than a number, the last event it has sent: it takes what follows from its job's channel, and reads
further back itself when it is new or was slow. So nothing piles up for a slow client, and nothing is lost or doubled
between backlog and live. This rests on one rule of whoever writes: a job's events are inserted while its row is locked,
so that they become visible in the order of their numbers.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.database import DATABASE_AWAY, Database
from shared.tables import TERMINAL, Event, Job, JsonObject

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.5
# Many streams that open at once share a round.
GATHER_SECONDS = 0.05
JOBS_PER_QUERY = 500
# Also what a stream holds in memory, so a thousand slow ones hold little.
BATCH = 100
# A client whose key was revoked meanwhile finds out when it comes back.
STREAM_SECONDS = 3600.0
# Streams that catch up leave most of the connection pool to other requests.
MOST_BACKLOG_READS = 4


class StoredEvent(NamedTuple):
    seq: int
    type: str
    payload: JsonObject


class Change(NamedTuple):
    """What a round found out about a job: its newest event, and those since the round before unless they are many."""

    newest: int
    is_ended: bool
    events: list[StoredEvent]
    is_complete: bool


class Channel:
    """The recent events of one job: every one after `floor`, up to `newest`."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.newest: int | None = None  # until the first round
        self.floor = 0
        self.recent: deque[StoredEvent] = deque()
        self.is_ended = False
        self.watchers = 0
        self.changed = asyncio.Event()

    def take(self, change: Change) -> None:
        first_round = self.newest is None
        if not first_round and change.newest == self.newest and change.is_ended == self.is_ended:
            return
        self.recent.extend(change.events)
        if first_round or not change.is_complete:
            self.recent.clear()
            self.floor = change.newest
        while len(self.recent) > BATCH:
            self.floor = self.recent.popleft().seq
        self.newest = change.newest
        self.is_ended = change.is_ended
        self.wake()

    def end(self) -> None:
        self.is_ended = True
        self.newest = self.newest or 0
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def after(self, seen: int) -> list[StoredEvent] | None:
        """None when the channel does not reach that far back."""
        return [event for event in self.recent if event.seq > seen] if seen >= self.floor else None


class EventHub:
    """One per process; used from its event loop only."""

    def __init__(self, database: Database, *, stream_seconds: float = STREAM_SECONDS) -> None:
        self.database = database
        self.stream_seconds = stream_seconds
        self.channels: dict[str, Channel] = {}
        self.is_stopping = False
        self._wanted = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._poll_limit = CapacityLimiter(1)
        self._backlog_limit = CapacityLimiter(MOST_BACKLOG_READS)

    def stop(self) -> None:
        """Every stream ends; clients go on elsewhere from the last event they got."""
        self.is_stopping = True
        for channel in self.channels.values():
            channel.end()

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Channel]:
        """The job's channel, kept up to date meanwhile."""
        channel = self.channels.setdefault(job_id, Channel(job_id))
        channel.watchers += 1
        if channel.newest is None:
            self._wanted.set()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            yield channel
        finally:
            channel.watchers -= 1
            if channel.watchers == 0 and self.channels.get(job_id) is channel:
                del self.channels[job_id]

    async def follow(self, channel: Channel, seen: int) -> AsyncIterator[StoredEvent]:
        """Events after `seen` in order, up to the one that ends the job, for at most `stream_seconds`."""
        ends = asyncio.get_running_loop().time() + self.stream_seconds
        while not self.is_stopping and (left := ends - asyncio.get_running_loop().time()) > 0:
            changed, newest = channel.changed, channel.newest
            if newest is not None:
                events, reached = channel.after(seen), newest
                if events is None:
                    events = await self._read_backlog(channel.job_id, seen, newest)
                    reached = events[-1].seq if len(events) == BATCH else newest
                for event in events:
                    yield event
                seen = max(seen, reached)
                # Compared with what is newest now: events may have come while the client took its time.
                if seen < (channel.newest or 0):
                    continue
                if channel.is_ended:
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), left)

    async def _poll(self) -> None:
        """Ends with the last stream. Should a bug end it sooner the streams end too, and clients come back."""
        try:
            while self.channels and not self.is_stopping:
                await asyncio.sleep(GATHER_SECONDS)
                self._wanted.clear()
                await self._look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._wanted.wait()
        finally:
            for channel in self.channels.values():
                channel.end()
            self.channels = {}

    async def _look(self) -> None:
        watched = list(self.channels.items())
        for start in range(0, len(watched), JOBS_PER_QUERY):
            part = dict(watched[start : start + JOBS_PER_QUERY])
            newest = {job_id: channel.newest for job_id, channel in part.items()}
            try:
                changes = await run_sync(read_changes, self.database, newest, limiter=self._poll_limit)
            except DATABASE_AWAY as error:
                logger.warning(
                    "event streams wait for the database", extra={"streams": len(watched), "reason": str(error)}
                )
                return
            for job_id, change in changes.items():
                part[job_id].take(change)

    async def _read_backlog(self, job_id: str, seen: int, newest: int) -> list[StoredEvent]:
        while not self.is_stopping:
            try:
                return await run_sync(read_events, self.database, job_id, seen, newest, limiter=self._backlog_limit)
            except DATABASE_AWAY:
                await asyncio.sleep(POLL_SECONDS)  # the poller says so in the log
        return []


def read_changes(database: Database, newest: Mapping[str, int | None]) -> dict[str, Change]:
    """Of jobs by id with the number of the newest event known; None asks for no events."""
    with database.read() as session:
        heads = read_heads(session, list(newest))
        return {job_id: read_change(session, job_id, known, heads) for job_id, known in newest.items()}


def read_heads(session: Session, job_ids: list[str]) -> dict[str, tuple[int, bool]]:
    """Number of the newest event and whether the job has ended, as of one moment."""
    last = select(func.max(Event.seq)).where(Event.job_id == Job.id).scalar_subquery()
    rows = session.execute(select(Job.id, Job.state, last).where(Job.id.in_(job_ids)))
    return {job_id: (seq or 0, state in TERMINAL) for job_id, state, seq in rows}


def read_change(session: Session, job_id: str, known: int | None, heads: Mapping[str, tuple[int, bool]]) -> Change:
    newest, is_ended = heads.get(job_id, (known or 0, True))
    if known is None or newest <= known:
        return Change(max(newest, known or 0), is_ended, [], is_complete=True)
    events = select_events(session, job_id, known, newest, limit=BATCH + 1)
    return Change(newest, is_ended, events[:BATCH], is_complete=len(events) <= BATCH)


def read_events(database: Database, job_id: str, seen: int, newest: int) -> list[StoredEvent]:
    with database.read() as session:
        return select_events(session, job_id, seen, newest, limit=BATCH)


def select_events(session: Session, job_id: str, seen: int, newest: int, *, limit: int) -> list[StoredEvent]:
    query = (
        select(Event.seq, Event.type, Event.payload)
        .where(Event.job_id == job_id, Event.seq > seen, Event.seq <= newest)
        .order_by(Event.seq)
        .limit(limit)
    )
    return [StoredEvent(*row) for row in session.execute(query)]
