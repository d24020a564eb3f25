"""Jobs and datasets as the API, the dispatcher and the generating workers leave them for a trainer."""

import hashlib
import io
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from shared.classes import listed_wnids
from shared.database import Database, database_now
from shared.ids import job_id
from shared.job_leases import JobLease, claim_job
from shared.shards import Sample, pack
from shared.specs import TrainingRequest, TrainingSpec
from shared.storage import ObjectStore
from shared.tables import Job, JsonObject

DIGITS = listed_wnids("digits")
START = 4


class Shard(NamedTuple):
    """What a test says about a shard whose first slot is START."""

    class_id: str
    images: Sequence[npt.NDArray[np.uint8]]
    take: int


def tiny_request(**fields: object) -> TrainingRequest:
    values: dict[str, object] = {
        "real": "digits-train",
        "architecture": "test_resnet",
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "steps": 4,
        "batch_size": 8,
        "flip": False,
    }
    return TrainingRequest.model_validate(values | fields)


def spec_of(request: TrainingRequest, class_ids: Sequence[str] = DIGITS) -> TrainingSpec:
    ids = tuple(class_ids)
    recipe = request.resolved_recipe()
    return TrainingSpec(request=request, recipe=recipe, class_ids=ids, class_names=ids, version="0.1.0")


def add_training(database: Database, request: TrainingRequest, *, class_ids: Sequence[str] = DIGITS) -> str:
    spec = spec_of(request, class_ids)
    return add_job(database, "training", state="queued", spec=spec.model_dump(mode="json"), total=request.steps or 0)


def add_job(
    database: Database, kind: str, *, state: str, spec: JsonObject, total: int = 0, result: JsonObject | None = None
) -> str:
    job = Job(id=job_id(kind), kind=kind, team_id="default", state=state, spec=spec, total=total, result=result)
    with database.write() as session:
        job.created_at = database_now(session)
        session.add(job)
    return job.id


def add_dataset(database: Database, store: ObjectStore, shards: Sequence[Shard]) -> str:
    """A dataset that succeeded, with the classes of its shards as labels in their order."""
    class_ids = list(dict.fromkeys(shard.class_id for shard in shards))
    manifest = {
        "dataset": "ds-test",
        "recipe_digest": "digest-of-the-recipe",
        "classes": [{"label": label, "id": class_id} for label, class_id in enumerate(class_ids)],
        "shards": [put_shard(store, number, shard) for number, shard in enumerate(shards)],
    }
    data = json.dumps(manifest).encode()
    store.put("datasets/manifest.json", data)
    result: JsonObject = {"manifest_key": "datasets/manifest.json", "manifest_sha256": hashlib.sha256(data).hexdigest()}
    return add_job(database, "dataset", state="succeeded", spec={}, result=result)


def put_shard(store: ObjectStore, number: int, shard: Shard) -> JsonObject:
    samples = [Sample(f"image{slot}", slot, jpeg(image), 0, {}) for slot, image in enumerate(shard.images, START)]
    data, key = pack(samples), f"images/{number}.tar"
    accepted = min(shard.take, len(shard.images))
    store.put(key, data)
    described: JsonObject = {"key": key, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return described | {"class_id": shard.class_id, "start": START, "take": shard.take, "accepted": accepted}


def jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def flat(level: int, size: int = 32) -> npt.NDArray[np.uint8]:
    return np.full((size, size, 3), level, np.uint8)


def claim(database: Database, kind: str = "training") -> JobLease:
    with database.write() as session:
        lease = claim_job(session, kind, worker="w", lease_seconds=60)
    assert lease is not None
    return lease


def read_job(database: Database, row: str) -> Job:
    with database.read() as session:
        return session.get_one(Job, row)
