"""Committed objects of datasets: whole, or one image by two range reads.

What a reader finds damaged is reported, so that it is drawn again, and becomes BeingRedrawn. A CorruptObject remains
where the bytes are those that were committed and yet make no sense.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared import leases
from shared.database import Database
from shared.errors import BeingRedrawn, CorruptObject, NotFound
from shared.inspection import damage_of, report_manifest
from shared.shards import HEAD_BYTES, read_index, read_sample
from shared.storage import ObjectStore, get_verified
from shared.tables import DatasetClass, DatasetShard, Job, Shard

REMEDY = "restore the object, or ask for the dataset with another seed"


class StoredImage(NamedTuple):
    jpeg: bytes
    metadata: dict[str, JsonValue]


class ShardPart(NamedTuple):
    """The object of a finished shard, of which a dataset takes the slots below `stop`."""

    key: str
    sha256: str
    stop: int


def find_class(session: Session, job: Job, class_id: str) -> DatasetClass:
    query = select(DatasetClass).where(DatasetClass.job_id == job.id, DatasetClass.class_id == class_id)
    row = session.scalars(query).one_or_none()
    if row is None:
        raise NotFound(f"dataset {job.id} has no class {class_id!r}; GET /datasets/{job.id} lists them")
    return row


def find_part(session: Session, job: Job, row: DatasetClass, *, slot: int) -> ShardPart | None:
    """The finished shard with this slot; reads one row, through the index that makes shards unique.

    Raises BeingRedrawn when its object was found damaged.
    """
    query = (
        select(Shard, DatasetShard.take)
        .join(DatasetShard, DatasetShard.shard_id == Shard.id)
        .where(
            DatasetShard.job_id == job.id,
            Shard.recipe_digest == job.spec["recipe_digest"],
            Shard.class_key == row.class_key,
            Shard.start_slot <= slot,
        )
        .order_by(Shard.start_slot.desc())
        .limit(1)
    )
    found = session.execute(query).one_or_none()
    if found is None or slot >= found.Shard.start_slot + found.take:
        return None
    return finished_part(found.Shard, take=found.take)


def finished_part(shard: Shard, *, take: int) -> ShardPart | None:
    """None for a shard that is not drawn yet; raises BeingRedrawn when its object was found damaged."""
    if shard.damage is not None and shard.state in ("pending", "leased"):
        raise BeingRedrawn(f"{shard.object_key} is being drawn again ({shard.damage}); ask again in some minutes")
    if shard.state != "done":
        return None
    assert shard.object_key is not None
    assert shard.sha256 is not None
    return ShardPart(shard.object_key, shard.sha256, shard.start_slot + take)


@contextmanager
def reading(key: str) -> Iterator[None]:
    """Whatever is wrong with the bytes becomes a CorruptObject that names the object."""
    try:
        yield
    except (CorruptObject, ValueError, TypeError) as error:
        raise CorruptObject(f"object {key} is damaged ({error}); {REMEDY}") from error


def read_image(store: ObjectStore, key: str, slot: int) -> StoredImage:
    """Raises NotFound for a slot whose every attempt was rejected."""
    with reading(key):
        jpeg, metadata = read_sample(lambda offset, length: read_range(store, key, offset, length), slot)
        if metadata.get("sha256") != hashlib.sha256(jpeg).hexdigest():
            raise CorruptObject(f"slot {slot} holds another image than was committed")
        return StoredImage(jpeg, metadata)


def read_slots(store: ObjectStore, part: ShardPart) -> list[int]:
    """The accepted slots, in order."""
    with reading(part.key):
        return [slot for slot in read_index(read_range(store, part.key, 0, HEAD_BYTES)) if slot < part.stop]


def read_range(store: ObjectStore, key: str, offset: int, length: int) -> bytes:
    try:
        return store.get_range(key, offset, length)
    except NotFound as error:
        raise CorruptObject("it is gone from the store") from error


def read_whole(store: ObjectStore, key: str, sha256: str) -> bytes:
    try:
        return get_verified(store, key, sha256)
    except NotFound as error:
        raise CorruptObject(f"object {key} is gone from the store; {REMEDY}") from error


@contextmanager
def reporting(database: Database, store: ObjectStore, part: ShardPart) -> Iterator[None]:
    """An object that turns out damaged is queued to be drawn again."""
    try:
        yield
    except CorruptObject as error:
        damage = damage_of(store, part.key, sha256=part.sha256)
        if damage is None:
            raise
        with database.write() as session:
            leases.report_damage(session, object_key=part.key, reason=damage)
        raise BeingRedrawn(f"{part.key} is being drawn again ({damage}); ask again in some minutes") from error


def read_manifest(database: Database, store: ObjectStore, job_id: str, *, key: str, sha256: str) -> bytes:
    """A damaged one is queued to be written again."""
    try:
        return read_whole(store, key, sha256)
    except CorruptObject as error:
        damage = damage_of(store, key, sha256=sha256)
        if damage is None:
            raise
        with database.write() as session:
            report_manifest(session, job_id, manifest_key=key)
        raise BeingRedrawn(f"{key} is being written again ({damage}); ask again in some seconds") from error


def spread(count: int, over: int) -> Sequence[int]:
    """Up to `count` of the numbers below `over`, evenly spaced from 0."""
    chosen = min(count, over)
    return [number * over // chosen for number in range(chosen)]
