"""What a training learns from: datasets drawn by us, or one registered set of real images."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from shared.vision.digits import DigitsSplit, train_digits

from shared.database import Database
from shared.errors import CorruptObject, NotFound, Rejected
from shared.realsets import training_set
from shared.specs import TrainingRequest, TrainingSpec
from shared.storage import ObjectStore

from .batches import Stream
from .damage import shard_damaged
from .images import TrainingImages, from_arrays, in_memory, index_shards
from .manifest import ManifestShard, check_classes, fetch_shard, read_manifest
from .ranks import Ranks

DEFAULT_EPOCHS = 100
READERS: dict[str, Callable[[], DigitsSplit]] = {"digits-train": train_digits}


class Source(NamedTuple):
    images: TrainingImages
    recipe_digests: tuple[str, ...]


def open_source(spec: TrainingSpec, *, database: Database, store: ObjectStore, cache_dir: Path) -> Source:
    if spec.request.real is not None:
        return real_source(spec.request.real, spec.class_ids)
    manifests = [read_manifest(database, store, dataset) for dataset in spec.request.datasets]
    for manifest in manifests:
        check_classes(manifest, spec.class_ids)
    shards = [shard for manifest in manifests for shard in manifest.shards]
    files = fetch_shards(shards, database=database, store=store, cache_dir=cache_dir)
    label_of = {class_id: label for label, class_id in enumerate(spec.class_ids)}
    digests = tuple(dict.fromkeys(manifest.recipe_digest for manifest in manifests))
    return Source(in_memory(index_shards(files, shards, label_of)), digests)


def fetch_shards(
    shards: Sequence[ManifestShard], *, database: Database, store: ObjectStore, cache_dir: Path
) -> list[Path]:
    """Reports every damaged shard before the first one raises: they are drawn again together."""
    files, problems = [], []
    for shard in shards:
        try:
            files.append(fetch_shard(store, shard, cache_dir))
        except (CorruptObject, NotFound):
            problems.append(shard_damaged(database, store, shard.key, shard.sha256))
    if problems:
        # What nobody can draw again ends the training at once; the rest is worth waiting for.
        raise min(problems, key=lambda problem: not isinstance(problem, CorruptObject))
    return files


def real_source(name: str, class_ids: tuple[str, ...]) -> Source:
    known = training_set(name)
    if known.class_ids != class_ids:
        raise Rejected(f"{name} has the classes {', '.join(known.class_ids)}; the training was made for other ones")
    split = READERS[name]()
    return Source(from_arrays(split.images, split.labels), ())


def open_stream(request: TrainingRequest, images: TrainingImages, ranks: Ranks) -> Stream:
    if request.batch_size % ranks.size:
        raise Rejected(
            f"batch_size {request.batch_size} cannot be shared by {ranks.size} GPUs; give a multiple of {ranks.size}"
        )
    count = len(images.labels)
    steps = request.steps or math.ceil((request.epochs or DEFAULT_EPOCHS) * count / request.batch_size)
    size = request.image_size or min(images.image(0).shape[1:])
    return Stream(images, request.seed, size, request.flip, request.batch_size, steps)
