"""One look at the database. Each step is a transaction of its own, so a crash between two loses nothing."""

import logging
from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from shared import job_leases, leases, lifecycle, workers
from shared.database import Database
from shared.errors import Unavailable
from shared.fairness import GROWING
from shared.queue import Kind
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.tables import Job

from .doorbell import due_rings
from .finish import ended_datasets, finish_dataset, repair_manifest, stale_datasets
from .missing import AbsentSince, fail_without_weights
from .plan import plan_job, rest_unwanted
from .probing import release_probes
from .stopping import stop_due

logger = logging.getLogger(__name__)
# A dataset that only reuses finished shards links one window per round; this bounds a tick.
PLAN_ROUNDS = 8

Ring = Callable[[Kind], None]


def tick(
    database: Database, store: ObjectStore, settings: Settings, *, ring: Ring | None = None, absent: AbsentSince
) -> None:
    """Does nothing in a replica that is not the leader right now."""
    with database.leadership() as leading:
        if not leading:
            return
        expire(database, settings)
        with database.write() as session:
            stop_due(session)
        finish(database, store)
        plan(database, settings)
        with database.write() as session:
            lifecycle.release_children(session)
            release_probes(session)
            fail_without_weights(session, settings, absent)
            workers.forget_silent(session)
        if ring is not None:
            ring_doorbells(database, settings, ring)


def expire(database: Database, settings: Settings) -> None:
    with database.write() as session:
        shards = leases.expire(session, max_attempts=settings.max_attempts)
        jobs = job_leases.expire_jobs(session, max_attempts=settings.max_attempts)
    if shards or jobs:
        logger.info("leases expired", extra={"shards": shards, "jobs": jobs})


def finish(database: Database, store: ObjectStore) -> None:
    with database.read() as session:
        ended, stale = ended_datasets(session), stale_datasets(session)
    for write, jobs in ((finish_dataset, ended), (repair_manifest, stale)):
        for job in jobs:
            try:
                write(database, store, job)
            except (Unavailable, SQLAlchemyError) as problem:
                # One dataset must not keep the others from being planned.
                logger.warning("manifest not written yet", extra={"job_id": job.id, "reason": str(problem)})


def plan(database: Database, settings: Settings) -> None:
    with database.read() as session:
        growing = select(Job.id).where(GROWING).order_by(Job.priority.desc(), Job.id)
        job_ids = session.scalars(growing).all()
    for job_id in job_ids:
        for _ in range(PLAN_ROUNDS):
            with database.write() as session:
                job = session.get_one(Job, job_id)
                planned = plan_job(session, job, shard_slots=settings.shard_slots, window=settings.plan_window)
            if planned == 0:
                break
    with database.write() as session:
        rest_unwanted(session)


def ring_doorbells(database: Database, settings: Settings, ring: Ring) -> None:
    with database.write() as session:
        rings = due_rings(session, ring_again_seconds=settings.ring_again_seconds)
    for kind in rings:
        ring(kind)
