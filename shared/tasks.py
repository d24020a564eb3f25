"""How a worker process runs: woken by Celery, or polling where there is no broker. The only blanket excepts live here.

A consumer does one claim's worth of work at a time; what it holds when it stops goes back through its leases.
"""

import atexit
import logging
import multiprocessing
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
from .patience import LONGEST_PAUSE_SECONDS
from .queue import MESSAGE_VERSION, Kind, celery_app
from .settings import Settings
from .watchdog import Watchdog, end_pool, end_process

logger = logging.getLogger(__name__)
START_AGAIN_SECONDS = 3.0


class Consumer(Protocol):
    @property
    def watchdog(self) -> Watchdog: ...

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


class Rounds:
    """Claims again and again; waits out an unreachable database or object store with growing pauses."""

    def __init__(self, consumer: Consumer, *, pause_seconds: float) -> None:
        self._consumer, self._first_pause = consumer, pause_seconds
        self._away: str | None = None
        self.pause = pause_seconds

    @property
    def is_waiting(self) -> bool:
        return self._away is not None

    def work(self, stop: threading.Event) -> bool:
        """Whether there was anything to do; `pause` is how long to wait when there was not."""
        try:
            worked = self._consumer.work(stop)
        except (DBAPIError, *DATABASE_AWAY, Unavailable) as error:
            if str(error) != self._away:
                logger.warning("waiting for a part of the service", extra={"reason": str(error)})
            self._away = str(error)
            self.pause = min(self.pause * 2, LONGEST_PAUSE_SECONDS)
            return False
        self._away, self.pause = None, self._first_pause
        return worked


def drain(consumer: Consumer, stop: threading.Event, *, seconds: float, pause_seconds: float) -> None:
    """Work until nothing is pending, `seconds` have passed, or the process is told to stop."""
    deadline = time.monotonic() + seconds
    rounds = Rounds(consumer, pause_seconds=pause_seconds)
    while not stop.is_set() and time.monotonic() < deadline:
        if rounds.work(stop):
            continue
        if not rounds.is_waiting:
            return
        stop.wait(rounds.pause)


def poll(consumer: Consumer, stop: threading.Event, *, poll_seconds: float) -> None:
    """Work for ever without a broker."""
    rounds = Rounds(consumer, pause_seconds=poll_seconds)
    while not stop.is_set():
        if not rounds.work(stop):
            stop.wait(rounds.pause)
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
        consumer = make_consumer(settings)
        consumer.watchdog.start(end_process)
        poll(consumer, stop, poll_seconds=settings.poll_seconds)

    run(work)


def stop_file(parent_pid: int) -> Path:
    """Celery tells only the parent of a warm shutdown; this file passes the word to its pool child."""
    return Path(tempfile.gettempdir()) / f"synthclone-stop-{parent_pid}"


def watch_stop_file(path: Path, stop: threading.Event) -> None:
    while not stop.wait(0.3):
        if path.exists():
            stop.set()


def allow_children() -> None:
    """A pool child may start processes of its own, such as torch's loaders, which end when they miss their parent.

    billiard, Celery's multiprocessing, makes its children daemons to Python's own, which lets no daemon have children.
    """
    # There is no other way: the public setter refuses a process that runs.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]


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
        allow_children()
        watcher = threading.Thread(target=watch_stop_file, args=(stop_file(os.getppid()), self.stop), daemon=True)
        watcher.start()
        try:
            self._consumer = self.patiently_made()
        except Exception:
            # Celery would swallow it and keep a child that never works; the parent replaces one that exits.
            logger.exception("the worker cannot start")
            os._exit(1)
        if self._consumer is not None:
            self._consumer.watchdog.start(end_pool)

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
        path = stop_file(os.getpid())
        path.touch()
        # Only now, in the parent: it ends after its child, which looks at the file until then.
        atexit.register(path.unlink, missing_ok=True)

    def answer(self, version: int) -> None:
        """A doorbell rang."""
        if version != MESSAGE_VERSION or self._consumer is None:
            logger.warning("doorbell ignored", extra={"version": version})
            return
        settings = self.settings
        drain(self._consumer, self.stop, seconds=settings.drain_seconds, pause_seconds=settings.poll_seconds)
