"""Keeps the lease of a running job alive from a thread, whatever the work itself is busy with."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError

from .database import Database
from .job_leases import Hold, JobLease, extend_job

logger = logging.getLogger(__name__)


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
    except OperationalError as error:
        logger.warning("lease not extended", extra={"job_id": lease.job_id, "reason": str(error.orig)})
        return "held"
