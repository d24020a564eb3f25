"""One job at a time: claimed, its lease kept from a thread while the work runs, and settled by how that ended."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from .database import Database
from .endings import Ending, settle
from .errors import Unavailable
from .job_leases import Hold, JobLease, claim_job, extend_job
from .queue import JOB_KIND, Kind
from .schema import open_database
from .settings import Settings
from .tasks import attempt
from .workers import Presence

logger = logging.getLogger(__name__)
Work = Callable[[JobLease, Sequence[threading.Event]], Ending]
"""Works on a claimed job until done, or until any of the events asks it to stop."""


class JobConsumer:
    """What trainers and evaluators have in common; only the work differs."""

    def __init__(self, settings: Settings, kind: Kind, do_work: Work) -> None:
        self._settings, self._kind, self._do_work = settings, kind, do_work
        self._database = open_database(settings.sqlalchemy_url)
        self._presence = Presence(self._database, kind, device=settings.device)
        self._presence.start()

    def work(self, stop: threading.Event) -> bool:
        with self._database.write() as session:
            lease_seconds = self._settings.lease_seconds
            lease = claim_job(session, JOB_KIND[self._kind], worker=self._presence.id, lease_seconds=lease_seconds)
        if lease is None:
            return False
        logger.info("work starts", extra={"job_id": lease.job_id, "fence": lease.fence, "attempt": lease.attempts})
        self._presence.set_busy(True)
        try:
            self._finish(lease, self._ending(lease, stop))
        finally:
            self._presence.set_busy(False)
        return True

    def close(self) -> None:
        self._presence.stop()

    def _ending(self, lease: JobLease, stop: threading.Event) -> Ending:
        endings: list[Ending] = []
        with kept(self._database, lease, lease_seconds=self._settings.lease_seconds) as must_end:
            attempt(
                lambda: endings.append(self._do_work(lease, (stop, must_end))),
                on_failure=lambda reason: endings.append(Ending(crash=reason)),
            )
        return endings[0]

    def _finish(self, lease: JobLease, ending: Ending) -> None:
        with self._database.write() as session:
            settle(session, lease, ending, max_attempts=self._settings.max_attempts)
        if ending.unavailable is not None:
            raise Unavailable(ending.unavailable)


@contextmanager
def kept(database: Database, lease: JobLease, *, lease_seconds: float) -> Iterator[threading.Event]:
    """Extend the lease while the block runs; the event is set once the job is cancelled or somebody else's."""
    must_end, left = threading.Event(), threading.Event()

    def keep() -> None:
        while not left.wait(lease_seconds / 3) and not must_end.is_set():
            if hold_of(database, lease, lease_seconds) != "held":
                must_end.set()

    thread = threading.Thread(target=keep, name="lease-keeper", daemon=True)
    thread.start()
    try:
        yield must_end
    finally:
        left.set()
        thread.join()


def hold_of(database: Database, lease: JobLease, lease_seconds: float) -> Hold:
    """An unreachable database is no reason to stop: until it answers again nobody else can claim the job."""
    try:
        with database.write() as session:
            return extend_job(session, lease, lease_seconds=lease_seconds)
    except SQLAlchemyError as error:
        logger.warning("lease not extended", extra={"job_id": lease.job_id, "reason": str(error)})
        return "held"
