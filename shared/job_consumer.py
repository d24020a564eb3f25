"""One job at a time: claimed, its lease kept from a thread while the work runs, and settled by how that ended."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from .database import Database
from .endings import Ending, settle
from .errors import Unavailable
from .fitness import Fitness
from .job_leases import JobLease, claim_job, extend_job
from .patience import insist
from .queue import JOB_KINDS, Kind
from .schema import open_database
from .settings import Settings
from .storage import open_store
from .tasks import attempt
from .watchdog import Watchdog, pending_jobs
from .workers import Presence

logger = logging.getLogger(__name__)
Work = Callable[[JobLease, Sequence[threading.Event]], Ending]
"""Works on a claimed job until done, or until any of the events asks it to stop."""


class JobConsumer:
    """What trainers and evaluators have in common; only the work, and what it needs to start, differ."""

    def __init__(
        self, settings: Settings, kind: Kind, do_work: Work, *, checks: Sequence[Callable[[], None]] = ()
    ) -> None:
        self._settings, self._kind, self._do_work = settings, kind, do_work
        self._database = open_database(settings.sqlalchemy_url, lock_seconds=settings.lock_seconds)
        self._presence = Presence(self._database, kind, device=settings.device)
        self._fitness = Fitness(self._presence, [open_store(settings).check, *checks])
        self.watchdog = Watchdog(
            settings,
            self._database,
            self._presence,
            pending=pending_jobs(kind),
            threads=[self._presence.thread],
            holds_work=lambda: self._presence.busy,
        )
        self._presence.start()

    def work(self, stop: threading.Event) -> bool:
        self.watchdog.tried()
        self._fitness.require()
        claimed_at = time.monotonic()
        with self._database.write() as session:
            lease_seconds = self._settings.lease_seconds
            lease = claim_job(session, *JOB_KINDS[self._kind], worker=self._presence.id, lease_seconds=lease_seconds)
        if lease is None:
            return False
        logger.info("work starts", extra={"job_id": lease.job_id, "fence": lease.fence, "attempt": lease.attempts})
        self._presence.set_busy(True)
        try:
            self._finish(lease, self._ending(lease, stop, claimed_at), stop)
        finally:
            self.watchdog.tried()
            self._presence.set_busy(False)
        return True

    def close(self) -> None:
        self.watchdog.stop()
        self._presence.stop()

    def _ending(self, lease: JobLease, stop: threading.Event, claimed_at: float) -> Ending:
        endings: list[Ending] = []
        keeper = JobKeeper(self._database, lease, lease_seconds=self._settings.lease_seconds, claimed_at=claimed_at)
        with keeper.kept():
            attempt(
                lambda: endings.append(self._do_work(lease, (stop, keeper.must_end))),
                on_failure=lambda reason: endings.append(Ending(crash=reason)),
            )
        return endings[0]

    def _finish(self, lease: JobLease, ending: Ending, stop: threading.Event) -> None:
        """What was reached is not lost to a database that is away: another worker would have to do it again."""
        insist(partial(self._settle, lease, ending), stop=stop, seconds=self._settings.upload_seconds)
        if ending.unavailable is not None:
            raise Unavailable(ending.unavailable)

    def _settle(self, lease: JobLease, ending: Ending) -> None:
        with self._database.write() as session:
            settle(session, lease, ending, max_attempts=self._settings.max_attempts)


class JobKeeper:
    """Extends one job's lease from a thread; `must_end` is set once it is cancelled, lost or could be another's."""

    def __init__(self, database: Database, lease: JobLease, *, lease_seconds: float, claimed_at: float) -> None:
        self._database, self._lease, self._lease_seconds = database, lease, lease_seconds
        self._until = claimed_at + lease_seconds
        self._left = threading.Event()
        self.must_end = threading.Event()

    @contextmanager
    def kept(self) -> Iterator[None]:
        thread = threading.Thread(target=self._keep, name="lease-keeper", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._left.set()
            thread.join()

    def _keep(self) -> None:
        # A thread that dies of a bug must not leave the work running without a lease.
        try:
            while not self.must_end.is_set() and not self._left.wait(self._lease_seconds / 3):
                self._extend()
        finally:
            self.must_end.set()

    def _extend(self) -> None:
        asked = time.monotonic()
        try:
            with self._database.write() as session:
                hold = extend_job(session, self._lease, lease_seconds=self._lease_seconds)
        except SQLAlchemyError as error:
            logger.warning("lease not extended", extra={"job_id": self._lease.job_id, "reason": str(error)})
            # By our own clock, for the database is away: afterwards another worker may be the first to reach it.
            hold = "held" if time.monotonic() < self._until - self._lease_seconds / 3 else "lost"
        else:
            self._until = asked + self._lease_seconds
        if hold != "held":
            logger.warning("work must end", extra={"job_id": self._lease.job_id, "hold": hold})
            self.must_end.set()
