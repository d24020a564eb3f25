"""The shards of a finished dataset, as its manifest lists them, in a cache on this machine."""

import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.orm import Session

from shared.errors import CorruptObject, Rejected
from shared.storage import ObjectStore, get_verified
from shared.tables import Job


class ManifestClass(BaseModel):
    model_config = ConfigDict(frozen=True)

    label: int
    id: str


class ManifestShard(BaseModel):
    """The dataset uses the shard's accepted slots below `start + take`."""

    model_config = ConfigDict(frozen=True)

    key: str
    bytes: int
    sha256: str
    class_id: str
    start: int
    take: int


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True)

    dataset: str
    recipe_digest: str
    classes: tuple[ManifestClass, ...]
    shards: tuple[ManifestShard, ...]

    @property
    def class_ids(self) -> tuple[str, ...]:
        return tuple(known.id for known in sorted(self.classes, key=lambda known: known.label))


def read_manifest(session: Session, store: ObjectStore, dataset: str) -> Manifest:
    job = session.get(Job, dataset)
    if job is None or job.result is None:
        state = "unknown" if job is None else job.state
        raise Rejected(f"dataset {dataset} is {state} and has no images to train on; train on one that succeeded")
    data = get_verified(store, str(job.result["manifest_key"]), str(job.result["manifest_sha256"]))
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise CorruptObject(f"the manifest of {dataset} is not one this version reads: {error}") from error


def check_classes(manifest: Manifest, class_ids: tuple[str, ...]) -> None:
    if manifest.class_ids != class_ids:
        raise Rejected(
            f"dataset {manifest.dataset} has {len(manifest.class_ids)} classes ({shown(manifest.class_ids)}), "
            f"the training was made for {len(class_ids)} ({shown(class_ids)}); train on datasets with the same classes"
        )


def shown(class_ids: tuple[str, ...]) -> str:
    return ", ".join(class_ids[:3]) + (", ..." if len(class_ids) > 3 else "")


def fetch_shard(store: ObjectStore, shard: ManifestShard, cache_dir: Path) -> Path:
    """The shard's file, named by its sha256; downloaded and verified when this machine has not got it yet."""
    file = cache_dir / f"{shard.sha256}.tar"
    if file.is_file() and file.stat().st_size == shard.bytes:
        return file
    data = get_verified(store, shard.key, shard.sha256)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache_dir, suffix=".part", delete=False) as part:
        part.write(data)
    Path(part.name).replace(file)
    return file
