"""Reads every object of the datasets somebody asked to have verified; damaged ones are drawn again."""

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session

from shared import leases, lifecycle
from shared.database import Database, database_now
from shared.inspection import damage_of, report_manifest
from shared.storage import ObjectStore
from shared.tables import DatasetShard, Job, Shard

logger = logging.getLogger(__name__)
# Objects read for one dataset before it is the next one's turn.
TURN = 50


class Asked(NamedTuple):
    job_id: str
    at: datetime


class Unread(NamedTuple):
    """An object that was committed before the verification was asked for and not read since."""

    shard_id: int
    key: str
    sha256: str


def verify(database: Database, store: ObjectStore) -> Iterator[None]:
    """Pauses after each object. Ends when nothing is asked; `checked_at` lets another process go on from there."""
    places: dict[Asked, int] = {}
    while asked := asked_datasets(database):
        places = {dataset: places.get(dataset, 0) for dataset in asked}
        for dataset in asked:
            unread = unread_objects(database, dataset, after=places[dataset])
            for found in unread:
                check(database, store, found)
                yield
            if unread:
                places[dataset] = unread[-1].shard_id
            else:
                conclude(database, store, dataset)
                yield


def asked_datasets(database: Database) -> list[Asked]:
    query = select(Job.id, Job.verify_asked_at).where(Job.verify_asked_at.is_not(None)).order_by(Job.verify_asked_at)
    with database.read() as session:
        return [Asked(job_id, at) for job_id, at in session.execute(query) if at is not None]


def unread_objects(database: Database, asked: Asked, *, after: int) -> list[Unread]:
    """What is drawn while the verification runs was verified when it was stored, so the work has an end."""
    query = (
        select(Shard.id, Shard.object_key, Shard.sha256)
        .join(DatasetShard, DatasetShard.shard_id == Shard.id)
        .where(
            DatasetShard.job_id == asked.job_id,
            DatasetShard.shard_id > after,
            Shard.state == "done",
            Shard.done_at <= asked.at,
            or_(Shard.checked_at.is_(None), Shard.checked_at < asked.at),
        )
        .order_by(DatasetShard.shard_id)
        .limit(TURN)
    )
    with database.read() as session:
        return [Unread(id_, key or "", sha256 or "") for id_, key, sha256 in session.execute(query)]


def check(database: Database, store: ObjectStore, found: Unread) -> None:
    damage = damage_of(store, found.key, sha256=found.sha256)
    with database.write() as session:
        session.execute(
            update(Shard)
            .where(Shard.id == found.shard_id, Shard.object_key == found.key)
            .values(checked_at=database_now(session))
        )
        if damage is not None and leases.report_damage(session, object_key=found.key, reason=damage):
            logger.error("object damaged; it is drawn again", extra={"key": found.key, "reason": damage})


def conclude(database: Database, store: ObjectStore, asked: Asked) -> None:
    """Every object was read: check the manifest too, say what was found, and forget the question."""
    with database.read() as session:
        seen = session.get_one(Job, asked.job_id)
    manifest = seen.result if seen.result is not None and not seen.is_manifest_stale else None
    damage = manifest and damage_of(store, str(manifest["manifest_key"]), sha256=str(manifest["manifest_sha256"]))
    with database.write() as session:
        job = session.get_one(Job, asked.job_id, with_for_update=True)
        if job.verify_asked_at != asked.at:
            return  # another dispatcher that led meanwhile ended it, and perhaps it was asked again
        if manifest and damage and report_manifest(session, job.id, manifest_key=str(manifest["manifest_key"])):
            logger.error("manifest damaged; it is written again", extra={"job_id": job.id, "reason": damage})
        objects, damaged = counts(session, asked)
        job.verify_asked_at = None
        job.version += 1
        totals = {"objects": objects + bool(manifest), "damaged": damaged + bool(damage)}
        lifecycle.record(session, job.id, "verified", dict(totals))
    logger.info("dataset verified", extra={"job_id": asked.job_id, **totals})


def counts(session: Session, asked: Asked) -> tuple[int, int]:
    """Objects read for this question and, of those, the ones drawn again or about to be."""

    def count() -> Select[int]:
        return (
            select(func.count())
            .select_from(DatasetShard)
            .join(Shard, Shard.id == DatasetShard.shard_id)
            .where(DatasetShard.job_id == asked.job_id, Shard.checked_at >= asked.at)
        )

    is_damaged = or_(Shard.state != "done", Shard.done_at > Shard.checked_at)
    return session.scalar(count()) or 0, session.scalar(count().where(is_damaged)) or 0
