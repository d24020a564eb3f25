"""Ends a worker process that is alive but of no use, so that whatever started it starts a fresh one.

Such a worker is deaf (work is pending, it was called and does not come) or has lost the thread that keeps its leases
or its heartbeat. Celery workers have been seen that stay alive and never consume again after a Redis restart.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from .database import Database, database_now
from .queue import JOB_KINDS, Kind, broker_answers
from .settings import Settings
from .tables import Job, Recipe, Shard, Worker
from .workers import Presence

logger = logging.getLogger(__name__)
LONGEST_LOOK_SECONDS = 10.0
GRACE_SECONDS = 20.0
RINGS = 3  # a dispatcher that is alive has rung within this many intervals

Pending = Callable[[Session], bool]


def pending_shards(models: Sequence[str]) -> Pending:
    """`models` may become fewer meanwhile."""
    query = select(Shard.id).join(Recipe, Recipe.digest == Shard.recipe_digest).where(Shard.state == "pending")
    return lambda session: session.scalar(query.where(Recipe.model.in_(models)).limit(1)) is not None


def pending_jobs(kind: Kind) -> Pending:
    kinds = Job.kind.in_(JOB_KINDS[kind])
    query = select(Job.id).where(kinds, Job.state == "queued", ~Job.cancel_requested).limit(1)
    return lambda session: session.scalar(query) is not None


class Watchdog:
    """`threads` must live as long as the worker; `holds_work` says that it is at work, which may take any time."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        presence: Presence,
        *,
        pending: Pending,
        threads: Sequence[threading.Thread],
        holds_work: Callable[[], bool],
    ) -> None:
        self._settings, self._database, self._presence = settings, database, presence
        self._pending, self._threads, self._holds_work = pending, threads, holds_work
        self._tried_at = time.monotonic()
        self._stop = threading.Event()

    def tried(self) -> None:
        """The worker looked for work just now, found or not."""
        self._tried_at = time.monotonic()

    def start(self, end: Callable[[str], None]) -> None:
        threading.Thread(target=partial(self._run, end), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def complaint(self) -> str | None:
        """Why this process had better end, or None."""
        for thread in self._threads:
            if not thread.is_alive():
                return f"the thread {thread.name!r} has died"
        seconds = self._settings.watchdog_seconds
        if self._holds_work() or time.monotonic() - self._tried_at < seconds or not self._is_called():
            return None
        return f"work is pending and this worker has not tried to claim any for {seconds:.0f} s"

    def _is_called(self) -> bool:
        """Whether a fresh process would work: not while the database, the broker or the dispatcher is away."""
        try:
            with self._database.read() as session:
                if not self._pending(session):
                    return False
                has_rung = self._has_rung(session)
        except SQLAlchemyError:
            return False
        url = self._settings.redis_url
        return url is None or (has_rung and broker_answers(url))

    def _has_rung(self, session: Session) -> bool:
        row = session.get(Worker, self._presence.id)
        recent = database_now(session) - timedelta(seconds=RINGS * self._settings.ring_again_seconds)
        return row is not None and row.rung_at is not None and row.rung_at >= recent

    def _run(self, end: Callable[[str], None]) -> None:
        interval = min(LONGEST_LOOK_SECONDS, self._settings.watchdog_seconds / 4)
        while not self._stop.wait(interval):
            if (reason := self.complaint()) is not None:
                end(reason)
                return


def end_process(reason: str) -> None:
    """At once, whatever the other threads hang in; what it may hold is found by its leases."""
    logger.error("worker ends itself", extra={"reason": reason})
    os._exit(1)


def end_pool(reason: str) -> None:
    """For a Celery pool child: its parent goes too, by force if it hears nothing, for it is the one that is deaf."""
    logger.error("worker ends itself and its parent", extra={"reason": reason})
    parent = os.getppid()
    os.kill(parent, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.2)
    if os.getppid() == parent:
        os.kill(parent, signal.SIGKILL)
    os._exit(1)
