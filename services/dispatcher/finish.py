"""Ends dataset jobs: writes the manifest of what was accepted, then moves the job to its last state."""

import hashlib
import json
from typing import NamedTuple

from pydantic import JsonValue
from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from shared import lifecycle
from shared.database import Database
from shared.fairness import LEASED
from shared.not_finite import noted
from shared.redrawing import counted_damage
from shared.storage import ObjectStore
from shared.tables import ACTIVE, TERMINAL, DatasetClass, DatasetShard, Job, JsonObject, Recipe, Shard

from .stopping import explain_stop


class LinkedShard(NamedTuple):
    """The columns of a finished shard that a manifest needs; whole rows of a large dataset would fill the memory."""

    position: int
    take: int
    object_key: str | None
    size_bytes: int | None
    sha256: str | None
    start_slot: int
    stop_slot: int
    short_slots: list[int]


def ended_datasets(session: Session) -> list[Job]:
    """Datasets with nothing left to draw, those that stopped with nothing in hand, and those to be cancelled."""
    complete = Job.done + Job.failed == Job.total
    stopped = and_(Job.stop_reason.is_not(None), ~linked(Shard.state == LEASED))
    is_ended = and_(or_(complete, stopped), ~redrawn())
    query = select(Job).where(Job.kind == "dataset", Job.state.in_(ACTIVE), or_(Job.cancel_requested, is_ended))
    return list(session.scalars(query.order_by(Job.id)).all())


def linked(shard: ColumnElement[bool]) -> ColumnElement[bool]:
    """The job has a link to such a shard."""
    query = select(Shard.id).join(DatasetShard, DatasetShard.shard_id == Shard.id)
    return query.where(DatasetShard.job_id == Job.id, shard).correlate(Job).exists()


def redrawn() -> ColumnElement[bool]:
    """An object that the job counted is being drawn again: a manifest now would lack it."""
    return linked(and_(counted_damage(), Shard.state.in_(("pending", "leased"))))


def finish_dataset(database: Database, store: ObjectStore, job: Job) -> None:
    """The manifest is stored before the state changes, so a dataset that ended can always be read."""
    result = write_manifest(database, store, job)
    with database.write() as session:
        current = session.get_one(Job, job.id, with_for_update=True)
        if current.version != job.version:
            return  # a shard was counted meanwhile; the next tick writes the manifest anew
        state, error = verdict(session, current)
        current.result = result
        session.flush()
        lifecycle.transition(session, job.id, state, error=error)


def write_manifest(database: Database, store: ObjectStore, job: Job) -> JsonObject:
    with database.read() as session:
        content, size_bytes = manifest(session, job)
    data = json.dumps(content, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"datasets/{job.id}/manifest-{sha256[:16]}.json"
    store.put(key, data)
    return {"manifest_key": key, "manifest_sha256": sha256, "images": job.done, "bytes": size_bytes}


def stale_datasets(session: Session) -> list[Job]:
    """Datasets that ended and whose manifest names objects that are gone, once all of them are drawn again."""
    query = select(Job).where(Job.is_manifest_stale, Job.state.in_(TERMINAL), ~redrawn())
    return list(session.scalars(query.order_by(Job.id)).all())


def repair_manifest(database: Database, store: ObjectStore, job: Job) -> None:
    """The state stays what it was; readers find the new manifest through the job's result."""
    result = write_manifest(database, store, job)
    with database.write() as session:
        current = session.get_one(Job, job.id, with_for_update=True)
        if current.version != job.version:
            return  # another shard was drawn again meanwhile
        current.result, current.is_manifest_stale = result, False
        current.version += 1
        session.flush()
        lifecycle.record(session, job.id, "repaired", {"manifest_key": result["manifest_key"]})


def verdict(session: Session, job: Job) -> tuple[str, JsonObject | None]:
    if job.cancel_requested:
        return "cancelled", None
    if job.done == job.total:
        return "succeeded", None
    if job.stop_reason is not None and job.done + job.failed < job.total:
        error = lifecycle.failure("stopped", explain_stop(session, job), retryable=True)
        return ("partial" if job.done else "failed"), error
    detail = f"{job.total - job.done} of {job.total} images are missing: {shortfall(session, job)}"
    error = lifecycle.failure("images-missing", detail, retryable=True)
    return ("partial" if job.done else "failed"), error


def shortfall(session: Session, job: Job) -> str:
    """Which classes are short and why, the worst five."""
    short = session.scalars(
        select(DatasetClass)
        .where(DatasetClass.job_id == job.id, DatasetClass.failed > 0)
        .order_by(DatasetClass.failed.desc(), DatasetClass.position)
        .limit(5)
    ).all()
    classes = ", ".join(f"{row.class_id} {row.failed}" for row in short)
    reason = session.scalar(
        select(Shard.error)
        .join(DatasetShard, DatasetShard.shard_id == Shard.id)
        .where(DatasetShard.job_id == job.id, Shard.error.is_not(None))
        .limit(1)
    )
    return f"{classes}; {reason or why_rejected(session, job)}"


def why_rejected(session: Session, job: Job) -> str:
    found = noted(session, job.id)
    return "the gate rejected every attempt" + (f"; of one that is not finite: {found}" if found else "")


def manifest(session: Session, job: Job) -> tuple[dict[str, JsonValue], int]:
    """Everything a reader needs: labels, and each object with the slots this dataset takes; and all objects' bytes."""
    recipe = session.get_one(Recipe, str(job.spec["recipe_digest"]))
    classes = session.scalars(select(DatasetClass).where(DatasetClass.job_id == job.id).order_by("position")).all()
    rows = session.execute(
        select(
            DatasetShard.position,
            DatasetShard.take,
            Shard.object_key,
            Shard.size_bytes,
            Shard.sha256,
            Shard.start_slot,
            Shard.stop_slot,
            Shard.short_slots,
        )
        .join(Shard, Shard.id == DatasetShard.shard_id)
        # A shard that is being drawn again goes on naming its old object until the new one is there.
        .where(DatasetShard.job_id == job.id, DatasetShard.counted_done > 0, Shard.object_key.is_not(None))
        .order_by(DatasetShard.position, Shard.start_slot)
    )
    links = [LinkedShard(*row) for row in rows]
    ids = {row.position: row.class_id for row in classes}
    content: dict[str, JsonValue] = {
        "dataset": job.id,
        "model": recipe.model,
        "recipe": recipe.recipe,
        "recipe_digest": recipe.digest,
        "classes": [class_entry(row) for row in classes],
        "shards": [shard_entry(link, ids[link.position]) for link in links],
    }
    return content, sum(link.size_bytes or 0 for link in links)


def class_entry(row: DatasetClass) -> JsonValue:
    names = row.text["names"]
    return {"label": row.position, "id": row.class_id, "names": names, "key": row.class_key, "images": row.done}


def shard_entry(link: LinkedShard, class_id: str) -> JsonValue:
    short = sum(slot < link.start_slot + link.take for slot in link.short_slots)
    return {
        "key": link.object_key,
        "bytes": link.size_bytes,
        "sha256": link.sha256,
        "label": link.position,
        "class_id": class_id,
        "start": link.start_slot,
        "stop": link.stop_slot,
        "take": link.take,
        "accepted": link.take - short,
    }
