"""The shards of a finished dataset, as its manifest lists them."""

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.database import Database
from shared.errors import BeingRedrawn, CorruptObject, NotFound, Rejected
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


class ListedShard(ManifestShard):
    """`accepted` of the slots that the dataset uses have an image."""

    accepted: int


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True)

    dataset: str
    recipe_digest: str
    classes: tuple[ManifestClass, ...]
    shards: tuple[ListedShard, ...]

    @property
    def class_ids(self) -> tuple[str, ...]:
        return tuple(known.id for known in sorted(self.classes, key=lambda known: known.label))


def read_manifest(database: Database, store: ObjectStore, dataset: str) -> Manifest:
    """Raises BeingRedrawn for one that is damaged, after having asked for it to be written again."""
    with database.read() as session:
        job = session.get(Job, dataset)
    if job is None or job.result is None:
        state = "unknown" if job is None else job.state
        raise Rejected(f"dataset {dataset} is {state} and has no images; name one that succeeded")
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
