"""What a training learns from: datasets drawn by us, or one registered set of real images."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shared.vision.digits import DigitsSplit, train_digits
from shared.vision.drawn import index_shards
from shared.vision.real.bucket import Bucket, on_disk
from shared.vision.real.decoding import Photos
from shared.vision.real.registered import open_set

import numpy as np

from shared.database import Database
from shared.errors import Rejected
from shared.realsets import RealSet, training_set
from shared.recipes import TrainingRecipe
from shared.specs import TrainingSpec
from shared.storage import ObjectStore
from shared.stored.cache import ShardCache
from shared.stored.fetch import fetch_shards
from shared.stored.manifest import Manifest, read_manifest

from .batches import Part, Stream
from .images import JoinedImages, TrainingImages, from_arrays, in_memory
from .ranks import Ranks

# Beside the shards, where archives of real sets are unpacked and those of the bucket are put together.
REAL_SETS = "realsets"
READERS: dict[str, Callable[[], DigitsSplit]] = {"digits-train": train_digits}


class Source(NamedTuple):
    """`parts` are the images of each dataset in the order asked for, then those of the real set."""

    images: TrainingImages
    parts: tuple[int, ...]
    recipe_digests: tuple[str, ...]


def open_source(spec: TrainingSpec, *, database: Database, store: ObjectStore, cache: ShardCache) -> Source:
    drawn = drawn_source(spec, database=database, store=store, cache=cache) if spec.request.datasets else None
    if spec.request.real is None:
        assert drawn is not None
        return drawn
    with database.read() as session:
        known = training_set(session, spec.request.real)
    folder = cache.folder.parent / REAL_SETS
    real = real_images(on_disk(known, Bucket(store, cache), cache_dir=folder), spec.class_ids, cache_dir=folder)
    if drawn is None:
        return Source(real, (len(real.labels),), ())
    both = JoinedImages.of((drawn.images, real))
    return Source(both, (*drawn.parts, len(real.labels)), drawn.recipe_digests)


def drawn_source(spec: TrainingSpec, *, database: Database, store: ObjectStore, cache: ShardCache) -> Source:
    manifests = [read_manifest(database, store, dataset) for dataset in spec.request.datasets]
    for manifest in manifests:
        check_classes(manifest, spec.class_ids)
    shards = [shard for manifest in manifests for shard in manifest.shards]
    files = fetch_shards(shards, database=database, store=store, cache=cache)
    label_of = {class_id: label for label, class_id in enumerate(spec.class_ids)}
    indexed = index_shards(files, shards, label_of)
    ends = np.cumsum([len(manifest.shards) for manifest in manifests])
    # Rows are in the order of the shards.
    parts = np.diff(np.searchsorted(indexed.places[:, 0], np.concatenate([[0], ends])))
    digests = tuple(dict.fromkeys(manifest.recipe_digest for manifest in manifests))
    return Source(in_memory(indexed), tuple(int(part) for part in parts), digests)


def check_classes(manifest: Manifest, class_ids: tuple[str, ...]) -> None:
    if manifest.class_ids != class_ids:
        raise Rejected(
            f"dataset {manifest.dataset} has {len(manifest.class_ids)} classes ({shown(manifest.class_ids)}), "
            f"the training was made for {len(class_ids)} ({shown(class_ids)}); train on datasets with the same classes"
        )


def shown(class_ids: tuple[str, ...]) -> str:
    return ", ".join(class_ids[:3]) + (", ..." if len(class_ids) > 3 else "")


def real_images(known: RealSet, class_ids: tuple[str, ...], *, cache_dir: Path) -> TrainingImages:
    if set(known.class_ids) != set(class_ids):
        raise Rejected(f"{known.name} has other classes than the training was made for; submit it again")
    label_of = np.array([class_ids.index(class_id) for class_id in known.class_ids])
    if known.place is not None:
        return in_memory(Photos(open_set(known, cache_dir=cache_dir).restricted_to(class_ids)))
    split = READERS[known.name]()
    return from_arrays(split.images, label_of[split.labels])


def open_stream(spec: TrainingSpec, source: Source, ranks: Ranks) -> Stream:
    request, recipe, images = spec.request, spec.recipe, source.images
    if recipe.batch_size % (ranks.size * recipe.accumulate):
        apart = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
        raise Rejected(
            f"batch_size {recipe.batch_size} cannot be shared by {ranks.size} GPUs{apart}; "
            f"give a multiple of {ranks.size * recipe.accumulate}"
        )
    count = len(images.labels)
    steps = request.steps or math.ceil(recipe.epochs * count / recipe.batch_size)
    size = recipe.crops[0].size if recipe.crops else request.image_size or min(images.image(0).shape[1:])
    shares = request.shares or (None,) * len(source.parts)
    parts = tuple(Part(*part) for part in zip(source.parts, shares, strict=True))
    return Stream(images, request.seed, size, recipe, steps, parts)


def warmup_steps(recipe: TrainingRecipe, stream: Stream) -> int:
    """Raises Rejected for a warm-up that the training never leaves."""
    steps = recipe.warmup_steps
    if recipe.warmup_epochs:
        steps = round(recipe.warmup_epochs * len(stream.source.labels) / recipe.batch_size)
    if steps >= stream.steps:
        raise Rejected(
            f"the warm-up of recipe {recipe.name} takes {steps:,} steps and the training has {stream.steps:,}; "
            "give a smaller warmup_steps or more epochs"
        )
    return steps
