"""The shards of a finished dataset, as its manifest lists them, in a cache on this machine."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.database import Database
from shared.disk import write_whole
from shared.errors import BeingRedrawn, CorruptObject, NotFound, Rejected, Unavailable
from shared.inspection import report_manifest
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


def read_manifest(database: Database, store: ObjectStore, dataset: str) -> Manifest:
    """Raises BeingRedrawn for one that is damaged, after having asked for it to be written again."""
    with database.read() as session:
        job = session.get(Job, dataset)
    if job is None or job.result is None:
        state = "unknown" if job is None else job.state
        raise Rejected(f"dataset {dataset} is {state} and has no images to train on; train on one that succeeded")
    key = str(job.result["manifest_key"])
    try:
        data = get_verified(store, key, str(job.result["manifest_sha256"]))
    except (CorruptObject, NotFound) as problem:
        with database.write() as session:
            report_manifest(session, dataset, manifest_key=key)
        raise BeingRedrawn(f"the manifest of {dataset} is damaged and is being written again: {problem}") from problem
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
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        write_whole(file, data)
    except OSError as error:
        raise Unavailable(f"cannot write to the cache {cache_dir}: {error.strerror}; free some space") from error
    return file
