"""The heartbeat row of a worker process: who is alive, what it can draw, and whether it is idle."""

import logging
import os
import socket
import threading
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from .database import Database, database_now
from .ids import new_id
from .queue import Kind
from .tables import Worker

logger = logging.getLogger(__name__)
BEAT_SECONDS = 5.0
SILENT_SECONDS = 30.0


class Presence:
    """Keeps one worker row fresh from a thread while the process lives."""

    def __init__(self, database: Database, kind: Kind, *, device: str, models: Sequence[str] = ()) -> None:
        self.id = new_id("wk")
        self.busy = False
        self.images_per_second: float | None = None
        self.problem: str | None = None
        self._database = database
        self._kind, self._device, self._models = kind, device, tuple(models)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self.beat()
        self.thread.start()

    def stop(self) -> None:
        self._stop.set()
        self.thread.join(BEAT_SECONDS)
        with self._database.write() as session:
            session.execute(delete(Worker).where(Worker.id == self.id))

    def set_busy(self, busy: bool) -> None:
        """Written at once where the database answers, else by the next beat: a claim must not be lost over it."""
        if busy != self.busy:
            self.busy = busy
            self.try_to_beat()

    def set_problem(self, problem: str | None) -> None:
        """Why this worker does not work, or None; the next beat writes it, for this may be told without a database."""
        if problem == self.problem:
            return
        if problem is not None:
            logger.warning("worker pauses", extra={"worker_id": self.id, "reason": problem})
        else:
            logger.info("worker goes on", extra={"worker_id": self.id})
        self.problem = problem

    def leave_out(self, model: str) -> None:
        """This worker cannot draw it after all."""
        self._models = tuple(each for each in self._models if each != model)
        self.try_to_beat()

    def beat(self) -> None:
        with self._lock, self._database.write() as session:
            now = database_now(session)
            row = session.get(Worker, self.id) or Worker(
                id=self.id,
                kind=self._kind,
                host=f"{socket.gethostname()}:{os.getpid()}",
                device=self._device,
                started_at=now,
            )
            row.seen_at, row.busy, row.images_per_second = now, self.busy, self.images_per_second
            row.problem, row.models = self.problem, list(self._models)
            if self.busy:
                row.rung_at = None  # it answered; once idle again it may be rung at once
            session.add(row)

    def try_to_beat(self) -> None:
        try:
            self.beat()
        except SQLAlchemyError as error:
            logger.warning("heartbeat not written", extra={"worker_id": self.id, "reason": str(error)})

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            self.try_to_beat()


def live_workers(session: Session, kind: Kind | None = None) -> list[Worker]:
    recent = database_now(session) - timedelta(seconds=SILENT_SECONDS)
    query = select(Worker).where(Worker.seen_at >= recent).order_by(Worker.id)
    return list(session.scalars(query.where(Worker.kind == kind) if kind else query).all())


def forget_silent(session: Session) -> None:
    """Drop the rows of processes that died without saying so."""
    long_ago = database_now(session) - timedelta(seconds=10 * SILENT_SECONDS)
    session.execute(delete(Worker).where(Worker.seen_at < long_ago))
