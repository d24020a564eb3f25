"""What a training learns from: datasets drawn by us, or one registered set of real images."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shared.vision.digits import DigitsSplit, train_digits

from shared.database import Database
from shared.errors import Rejected
from shared.realsets import training_set
from shared.specs import TrainingRequest, TrainingSpec
from shared.storage import ObjectStore

from .batches import Stream
from .images import TrainingImages, from_arrays, in_memory, index_shards
from .manifest import check_classes, fetch_shard, read_manifest
from .ranks import Ranks

DEFAULT_EPOCHS = 100
READERS: dict[str, Callable[[], DigitsSplit]] = {"digits-train": train_digits}


class Source(NamedTuple):
    images: TrainingImages
    recipe_digests: tuple[str, ...]


def open_source(spec: TrainingSpec, *, database: Database, store: ObjectStore, cache_dir: Path) -> Source:
    if spec.request.real is not None:
        return real_source(spec.request.real, spec.class_ids)
    with database.read() as session:
        manifests = [read_manifest(session, store, dataset) for dataset in spec.request.datasets]
    for manifest in manifests:
        check_classes(manifest, spec.class_ids)
    shards = [shard for manifest in manifests for shard in manifest.shards]
    files = [fetch_shard(store, shard, cache_dir) for shard in shards]
    label_of = {class_id: label for label, class_id in enumerate(spec.class_ids)}
    digests = tuple(dict.fromkeys(manifest.recipe_digest for manifest in manifests))
    return Source(in_memory(index_shards(files, shards, label_of)), digests)


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
