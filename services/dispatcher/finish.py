"""Ends dataset jobs: writes the manifest of what was accepted, then moves the job to its last state."""

import hashlib
import json
from typing import NamedTuple

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared import lifecycle
from shared.database import Database
from shared.storage import ObjectStore
from shared.tables import ACTIVE, DatasetClass, DatasetShard, Job, JsonObject, Recipe, Shard


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
    """Datasets with nothing left to draw, and those whose cancellation was asked."""
    query = select(Job).where(Job.kind == "dataset", Job.state.in_(ACTIVE))
    return [job for job in session.scalars(query) if job.cancel_requested or job.done + job.failed == job.total]


def finish_dataset(database: Database, store: ObjectStore, job: Job) -> None:
    """The manifest is stored before the state changes, so a dataset that ended can always be read."""
    with database.read() as session:
        content, size_bytes = manifest(session, job)
    data = json.dumps(content, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"datasets/{job.id}/manifest-{sha256[:16]}.json"
    store.put(key, data)
    with database.write() as session:
        current = session.get_one(Job, job.id, with_for_update=True)
        if current.version != job.version:
            return  # a shard was counted meanwhile; the next tick writes the manifest anew
        state, error = verdict(session, current)
        current.result = {
            "manifest_key": key,
            "manifest_sha256": sha256,
            "images": current.done,
            "bytes": size_bytes,
        }
        session.flush()
        lifecycle.transition(session, job.id, state, error=error)


def verdict(session: Session, job: Job) -> tuple[str, JsonObject | None]:
    if job.cancel_requested:
        return "cancelled", None
    if job.done == job.total:
        return "succeeded", None
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
    return f"{classes}; {reason or 'the gate rejected every attempt'}"


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
        .where(DatasetShard.job_id == job.id, Shard.state == "done")
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
