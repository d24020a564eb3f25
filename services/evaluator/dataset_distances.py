"""How near a dataset's images are to a registered real set, in the features of the evaluated encoder.

Of both sets only the images of the classes that they share are compared.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from shared.vision.real.bucket import Bucket, on_disk

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from shared.database import Database
from shared.errors import Rejected
from shared.realsets import RealSet, compared_set
from shared.specs import DistanceRequest
from shared.stored.fetch import fetch_shards
from shared.stored.manifest import Manifest, read_manifest

from .compared_photos import DrawnPhotos, FetchShards, NamedPhotos, draw_photos, real_photos, shards_of
from .distribution import (
    COVERAGE_NEIGHBOURS,
    LEAST_FOR_QUANTILES,
    PRECISION_NEIGHBOURS,
    Sample,
    compare_sets,
    memorisation,
)
from .features import CROP_PCT, Embedding, cached_features
from .linear import Check


class FeatureSpace(BaseModel):
    """What distances are measured in; those of two spaces do not compare."""

    model_config = ConfigDict(frozen=True)

    training: str
    encoder_sha256: str
    layer: str = "global pool"
    width: int
    image_size: int
    crop_pct: float = CROP_PCT


class ClosePair(BaseModel):
    """A drawn image, by its object and slot, and the photo of the real set that is nearest to it, by its name."""

    model_config = ConfigDict(frozen=True)

    object_key: str
    slot: int
    real_image: str
    distance: float


class MemorisationReport(BaseModel):
    """The nearest of all `bank` real photos to each drawn image, beside the same for `real_images` of these photos.

    `distances` are the `quantiles` of the real ones; `share_within` is the share of drawn images that are as near: of
    fresh photos about as many as the quantile says. What it tells is of copies only where the generator was trained on
    these photos.
    """

    model_config = ConfigDict(frozen=True)

    bank: int
    drawn_images: int
    real_images: int
    quantiles: tuple[float, float]
    distances: tuple[float, float]
    share_within: tuple[float, float]
    closest: tuple[ClosePair, ...]


class DistanceReport(BaseModel):
    """Figures of `images` images drawn of each set by `seed`, of the `drawn_of` and `real_of` that the classes have.

    `classes` are those that both sets have. `recipe_digest` says how the dataset was drawn, `sample_digest` which of
    its images were taken, `set_digest` what the real set holds: null for a set that is built in. `memorisation` is null
    where `memorisation_missing` says why.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    recipe_digest: str
    sample_digest: str
    real: str
    set_digest: str | None
    images: int
    seed: int
    drawn_of: int
    real_of: int
    classes: int
    dataset_classes: int
    real_classes: int
    space: FeatureSpace
    frechet: float
    precision: float
    recall: float
    precision_neighbours: int = PRECISION_NEIGHBOURS
    density: float
    coverage: float
    coverage_neighbours: int = COVERAGE_NEIGHBOURS
    memorisation: MemorisationReport | None
    memorisation_missing: str | None


class Pair(NamedTuple):
    """What is compared: `drawn` are `asked.images` of `drawn_of`, `real` is all that the set has of the classes."""

    asked: DistanceRequest
    manifest: Manifest
    known: RealSet
    class_ids: tuple[str, ...]
    drawn: DrawnPhotos
    drawn_of: int
    real: NamedPhotos


def open_pairs(
    asked: Sequence[DistanceRequest], *, database: Database, bucket: Bucket, cache_dir: Path, check: Check
) -> list[Pair]:
    """Everything is here, and stays until the bucket's cache lets go of it.

    Raises BeingRedrawn for what is damaged, Rejected for sets that cannot be compared, and what `check`, called before
    every shard of a dataset, raises.
    """
    fetch = partial(fetch_shards, database=database, store=bucket.store, cache=bucket.cache, check=check)
    pairs = []
    for each in asked:
        manifest = read_manifest(database, bucket.store, each.dataset)
        with database.read() as session:
            known = compared_set(session, each.real)
        here = on_disk(known, bucket, cache_dir=cache_dir)
        pairs.append(open_pair(each, manifest, here, fetch=fetch, cache_dir=cache_dir))
    return pairs


def open_pair(
    asked: DistanceRequest, manifest: Manifest, known: RealSet, *, fetch: FetchShards, cache_dir: Path
) -> Pair:
    class_ids = common_classes(asked, manifest, known)
    shards = shards_of(manifest, class_ids)
    drawn_of = sum(shard.accepted for shard in shards)
    real = real_photos(known, class_ids, cache_dir=cache_dir)
    for name, count in ((asked.dataset, drawn_of), (asked.real, len(real))):
        if count < asked.images:
            raise Rejected(
                f"{name} has {count:,} images of the {len(class_ids)} classes that {asked.dataset} and {asked.real} "
                f"share, fewer than the {asked.images:,} to compare; ask for fewer images"
            )
    drawn = draw_photos(shards, count=asked.images, seed=asked.seed, fetch=fetch)
    return Pair(asked, manifest, known, class_ids, drawn, drawn_of, real)


def common_classes(asked: DistanceRequest, manifest: Manifest, known: RealSet) -> tuple[str, ...]:
    """In the real set's order."""
    drawn = set(manifest.class_ids)
    common = tuple(class_id for class_id in known.class_ids if class_id in drawn)
    if not common:
        raise Rejected(f"dataset {asked.dataset} and {asked.real} have no class in common; name another real set")
    return common


def measure_distance(pair: Pair, embedding: Embedding) -> DistanceReport:
    """Raises what the embedding's check raises."""
    asked, check = pair.asked, embedding.check
    drawn, real = cached_features(pair.drawn, embedding), cached_features(pair.real, embedding)
    found = compare_sets(drawn, real, Sample(asked.images, asked.images, asked.seed), check=check)
    is_enough = len(real) >= LEAST_FOR_QUANTILES
    return DistanceReport(
        dataset=asked.dataset,
        recipe_digest=pair.manifest.recipe_digest,
        sample_digest=pair.drawn.digest(),
        real=asked.real,
        set_digest=pair.known.place.digest if pair.known.place else None,
        images=asked.images,
        seed=asked.seed,
        drawn_of=pair.drawn_of,
        real_of=len(real),
        classes=len(pair.class_ids),
        dataset_classes=len(pair.manifest.class_ids),
        real_classes=len(pair.known.class_ids),
        space=FeatureSpace(
            training=embedding.card.training,
            encoder_sha256=embedding.encoder_sha256,
            width=drawn.shape[1],
            image_size=embedding.card.image_size,
        ),
        frechet=found.frechet,
        precision=found.precision,
        recall=found.recall,
        density=found.density,
        coverage=found.coverage,
        memorisation=search_copies(pair, drawn, real, embedding) if is_enough else None,
        memorisation_missing=None if is_enough else too_few_photos(asked.real, len(real)),
    )


def search_copies(pair: Pair, drawn: Tensor, real: Tensor, embedding: Embedding) -> MemorisationReport:
    # Enough photos for the rarer quantile, however few images are compared.
    sample = Sample(pair.asked.images, min(len(real), max(pair.asked.images, LEAST_FOR_QUANTILES)), pair.asked.seed)
    found = memorisation(drawn, real, sample, check=embedding.check)
    return MemorisationReport(
        bank=found.bank,
        drawn_images=sample.synthetic,
        real_images=sample.real,
        quantiles=found.quantiles,
        distances=found.distances,
        share_within=found.share_within,
        closest=tuple(
            ClosePair(
                object_key=pair.drawn.images[near.synthetic].shard.key,
                slot=pair.drawn.images[near.synthetic].slot,
                real_image=pair.real.name(near.real),
                distance=near.distance,
            )
            for near in found.closest
        ),
    )


def too_few_photos(name: str, count: int) -> str:
    return (
        f"{name} has {count:,} photos of these classes; the distance that one real photo in a thousand lies within "
        f"needs {LEAST_FOR_QUANTILES:,}"
    )
