"""The first images of a dataset that may still be drawn: those that a smaller dataset of each share would have."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from shared.vision.drawn import ShardImages, index_shards
from shared.vision.images import squared

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session
from torch import Tensor

from shared.errors import Rejected
from shared.probes import ProbeSpec, images_of, size_of
from shared.stored.fetch import fetch_shards
from shared.stored.manifest import ManifestShard
from shared.tables import DatasetClass, DatasetShard, Shard

from .images import TrainingImages, in_memory
from .run import Place

# Of a share's images; the gate may reject some for good, and a dataset that ended partial may lack more.
ENOUGH = 0.9


class Stopped(Exception):
    """Told to stop in the middle of a probe."""


class FirstImages(NamedTuple):
    """`totals` are each class's images in the whole dataset, in label order; `files` belong to `shards`."""

    dataset: str
    totals: Mapping[str, int]
    shards: Sequence[ManifestShard]
    files: Sequence[Path]

    def of(self, share: float) -> ShardImages:
        """Raises Rejected where too few were accepted, as in a dataset that ended early."""
        label_of = {class_id: label for label, class_id in enumerate(self.totals)}
        kept = [
            (file, cut)
            for file, shard in zip(self.files, self.shards, strict=True)
            if (cut := cut_to(shard, images_of(self.totals[shard.class_id], share))) is not None
        ]
        found = index_shards([file for file, _ in kept], [cut for _, cut in kept], label_of)
        self.refuse_too_few(found, share)
        return found

    def refuse_too_few(self, found: ShardImages, share: float) -> None:
        wanted, counts = size_of(self.totals, share), np.bincount(found.labels, minlength=len(self.totals))
        if len(found.labels) < ENOUGH * wanted or not counts.all():
            raise Rejected(
                f"dataset {self.dataset} has {len(found.labels):,} of the {wanted:,} images of share {share:g}, "
                f"of {int((counts > 0).sum()):,} of {len(counts):,} classes; retry the dataset, or give smaller shares"
            )


def open_first_images(place: Place, spec: ProbeSpec, *, check: Callable[[], None]) -> FirstImages:
    """Every shard that the largest share needs, fetched; what is damaged is drawn again first.

    `check` is called before every shard, and may raise to stop.
    """
    with place.database.read() as session:
        totals = class_totals(session, spec.request.dataset)
        shards = first_shards(session, spec.request.dataset, totals, max(spec.request.shares))
    files = fetch_shards(shards, database=place.database, store=place.store, cache=place.cache, check=check)
    return FirstImages(spec.request.dataset, totals, shards, files)


def class_totals(session: Session, dataset: str) -> dict[str, int]:
    query = select(DatasetClass.class_id, DatasetClass.total).where(DatasetClass.job_id == dataset)
    return dict(session.execute(query.order_by(DatasetClass.position)).all())


def first_shards(session: Session, dataset: str, totals: Mapping[str, int], share: float) -> list[ManifestShard]:
    class_ids = list(totals)
    query = (
        select(
            DatasetShard.position, DatasetShard.take, Shard.object_key, Shard.size_bytes, Shard.sha256, Shard.start_slot
        )
        .join(Shard, Shard.id == DatasetShard.shard_id)
        # A shard that is being drawn again goes on naming its old object until the new one is there.
        .where(DatasetShard.job_id == dataset, DatasetShard.counted_done > 0, Shard.object_key.is_not(None))
        .where(Shard.start_slot < max(images_of(total, share) for total in totals.values()))
        .order_by(DatasetShard.position, Shard.start_slot)
    )
    found = [
        ManifestShard(
            key=str(row.object_key),
            bytes=row.size_bytes or 0,
            sha256=str(row.sha256),
            class_id=class_ids[row.position],
            start=row.start_slot,
            take=row.take,
        )
        for row in session.execute(query)
    ]
    return [shard for shard in found if shard.start < images_of(totals[shard.class_id], share)]


def cut_to(shard: ManifestShard, images: int) -> ManifestShard | None:
    """The shard's part of a class's first slots; None where it begins after them."""
    take = min(shard.take, images - shard.start)
    return shard.model_copy(update={"take": take}) if take > 0 else None


class SmallImages(NamedTuple):
    """Squares of `size` pixels; raises Stopped once told to stop, for decoding many images takes minutes."""

    source: ShardImages
    size: int
    stop: threading.Event

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return self.source.labels

    def image(self, index: int) -> Tensor:
        if self.stop.is_set():
            raise Stopped
        return squared(self.source.image(index), self.size)


def small(source: ShardImages, size: int, stop: threading.Event) -> TrainingImages:
    return in_memory(SmallImages(source, size, stop))
