"""How a worker process runs: woken by Celery, or polling where there is no broker. The only blanket excepts live here.

A consumer does one claim's worth of work at a time; what it holds when it stops goes back through its leases.
"""

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown, worker_shutting_down
from sqlalchemy.exc import DBAPIError

from .database import DATABASE_AWAY
from .entry import run
from .errors import Unavailable
from .logs import configure_logs
from .queue import MESSAGE_VERSION, Kind, celery_app
from .settings import Settings

logger = logging.getLogger(__name__)
LONGEST_PAUSE_SECONDS = 30.0
START_AGAIN_SECONDS = 3.0


class Consumer(Protocol):
    def work(self, stop: threading.Event) -> bool:
        """Claim something and do it; False when there was nothing. Stops early, giving leases back, when told."""

    def close(self) -> None: ...


def attempt(action: Callable[[], None], on_failure: Callable[[str], None]) -> bool:
    """Run one unit of work; whatever goes wrong becomes its recorded reason, and the worker lives on.

    A database or store that is away is nobody's fault: it rises, so that the worker waits instead of using up attempts.
    """
    try:
        action()
    except (*DATABASE_AWAY, Unavailable):
        raise
    except Exception as error:
        logger.exception("work failed")
        # Of a database error only the cause: users read the reason, and the statement holds other people's values.
        cause = error.orig if isinstance(error, DBAPIError) else error
        on_failure(f"{type(error).__name__}: {cause}")
        return False
    return True


def drain(consumer: Consumer, stop: threading.Event, *, seconds: float) -> None:
    """Work until nothing is pending, `seconds` have passed, or the process is told to stop."""
    deadline = time.monotonic() + seconds
    while not stop.is_set() and time.monotonic() < deadline and consumer.work(stop):
        pass


def poll(consumer: Consumer, stop: threading.Event, *, poll_seconds: float) -> None:
    """Work for ever without a broker; waits out an unreachable database or object store."""
    pause = poll_seconds
    while not stop.is_set():
        try:
            worked = consumer.work(stop)
            pause = poll_seconds
        except (DBAPIError, Unavailable) as error:
            logger.warning("waiting for a part of the service", extra={"reason": str(error)})
            worked, pause = False, min(pause * 2, LONGEST_PAUSE_SECONDS)
        if not worked:
            stop.wait(pause)
    consumer.close()


def stop_on_signal() -> threading.Event:
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    return stop


def run_polling(make_consumer: Callable[[Settings], Consumer]) -> None:
    """The process of a worker without a broker."""

    def work(settings: Settings) -> None:
        stop = stop_on_signal()
        poll(make_consumer(settings), stop, poll_seconds=settings.poll_seconds)

    run(work)


def stop_file(parent_pid: int) -> Path:
    """Celery tells only the parent of a warm shutdown; this file passes the word to its pool child."""
    return Path(tempfile.gettempdir()) / f"synthclone-stop-{parent_pid}"


def watch_stop_file(path: Path, stop: threading.Event) -> None:
    while not stop.wait(0.3):
        if path.exists():
            stop.set()


class CeleryWorker:
    """The pool child's consumer, made when the child starts so that the parent never loads torch.

    `module` is where the instance is made: `celery -A` and the spawned child both import it.
    """

    def __init__(self, kind: Kind, module: str, make_consumer: Callable[[Settings], Consumer]) -> None:
        self.settings = Settings()
        self.app: Celery = celery_app(self.settings)
        # A spawned child is a fresh interpreter: it must import the module that connects the handlers below.
        self.app.conf.include = [module]
        self.stop = threading.Event()
        self._make_consumer = make_consumer
        self._consumer: Consumer | None = None
        self.app.task(name=kind, ignore_result=True)(self.answer)
        stop_file(os.getpid()).unlink(missing_ok=True)  # a container's process ids repeat after a restart
        worker_process_init.connect(self.start_child, weak=False)
        worker_process_shutdown.connect(self.end_child, weak=False)
        worker_shutting_down.connect(self.tell_child, weak=False)

    def start_child(self, **_: object) -> None:
        configure_logs(self.settings.log_format)
        watcher = threading.Thread(target=watch_stop_file, args=(stop_file(os.getppid()), self.stop), daemon=True)
        watcher.start()
        try:
            self._consumer = self.patiently_made()
        except Exception:
            # Celery would swallow it and keep a child that never works; the parent replaces one that exits.
            logger.exception("the worker cannot start")
            os._exit(1)

    def patiently_made(self) -> Consumer | None:
        """The consumer, once the database answers; None when told to stop before that."""
        while not self.stop.is_set():
            try:
                return self._make_consumer(self.settings)
            except DATABASE_AWAY as error:
                logger.warning("waiting for the database", extra={"reason": str(error)})
                self.stop.wait(START_AGAIN_SECONDS)
        return None

    def end_child(self, **_: object) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def tell_child(self, **_: object) -> None:
        stop_file(os.getpid()).touch()

    def answer(self, version: int) -> None:
        """A doorbell rang."""
        if version != MESSAGE_VERSION or self._consumer is None:
            logger.warning("doorbell ignored", extra={"version": version})
            return
        consumer = self._consumer
        try:
            drain(consumer, self.stop, seconds=self.settings.drain_seconds)
        except (DBAPIError, Unavailable) as error:
            logger.warning("stopped for now; the dispatcher rings again", extra={"reason": str(error)})
