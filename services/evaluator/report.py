"""The report of an evaluation."""

from collections.abc import Sequence
from statistics import fmean

from shared.vision.networks import EncoderCard
from shared.vision.real.benchmarks import Benchmark

from pydantic import BaseModel, ConfigDict, JsonValue
from torch import Tensor

from .calibration import calibration
from .dataset_distances import DistanceReport
from .metrics import confusion_matrix, top_k_hits, wilson_interval
from .trained import TrainedReport
from .transfer import TransferReport

MOST_CONFUSED = 200
WORST_CLASSES = 10


class ClassReport(BaseModel):
    """`accuracy` is null for a class without test images."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    accuracy: float | None
    images: int


class WorstClass(BaseModel):
    """One of the classes with the lowest accuracy; most of its wrong answers, `mistaken`, were `taken_for`."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    accuracy: float
    images: int
    taken_for: str
    mistaken: int


class BenchmarkReport(BaseModel):
    """Accuracies as shares of 1; `interval` is the 95 % Wilson interval of top1, `ece` the expected calibration error.

    `kind` names the published set that this is, and is null for another. `classes` are those that set and encoder
    share; the set's other images are left out, and the encoder's other outputs cannot win. `per_class` are recalls,
    `mean_per_class` their mean. `confusion` has a row per true class, and is null for more than MOST_CONFUSED classes.
    `set_digest` is null for a set that is built in, `published` unless this very setting was published.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str | None = None  # reports of before had none
    images: int
    classes: int
    of_classes: int
    image_size: int
    crop_pct: float
    set_digest: str | None
    top1: float
    top5: float
    interval: tuple[float, float]
    mean_per_class: float
    ece: float
    per_class: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    worst: tuple[WorstClass, ...] = ()
    published: float | None = None


class ComparedModel(BaseModel):
    """`interval` is the 95 % percentile interval over the resamples."""

    model_config = ConfigDict(frozen=True)

    evaluation: str
    training: str
    trained_on: str
    architecture: str
    recipe: str
    seed: int | None
    top1: float
    interval: tuple[float, float]
    published: float | None


class ComparedPair(BaseModel):
    """Top-1 of the evaluation `first` less that of `second`; `share_not_better` of the resamples are not above 0."""

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    difference: float
    interval: tuple[float, float]
    share_not_better: float


class ComparisonReport(BaseModel):
    """Of several models on the same images, by a paired bootstrap (comparison.py); the first is the report's own."""

    model_config = ConfigDict(frozen=True)

    benchmark: str
    images: int
    resamples: int
    seed: int
    models: tuple[ComparedModel, ...]
    pairs: tuple[ComparedPair, ...]


class Report(BaseModel):
    """`trained` is null in reports of before it was told; `notes` say what is missing and why."""

    model_config = ConfigDict(frozen=True)

    evaluation: str
    training: str
    encoder_sha256: str
    trained: TrainedReport | None = None
    benchmarks: tuple[BenchmarkReport, ...]
    comparisons: tuple[ComparisonReport, ...] = ()
    transfer: tuple[TransferReport, ...] = ()
    transfer_means: dict[str, float] = {}
    distances: tuple[DistanceReport, ...] = ()
    notes: tuple[str, ...] = ()
    versions: dict[str, str]

    def summary(self) -> dict[str, JsonValue]:
        tested: dict[str, JsonValue] = {
            known.name: {"top1": known.top1, "n": known.images} for known in self.benchmarks
        }
        tested.update({known.name: {"top1": known.top1, "n": known.test_images} for known in self.transfer})
        # No set has "=" in its name.
        tested.update(
            {f"{near.dataset}={near.real}": {"frechet": near.frechet, "n": near.images} for near in self.distances}
        )
        return tested


def report_benchmark(tested: Benchmark, card: EncoderCard, logits: Tensor) -> BenchmarkReport:
    """logits (N, C) with the tested classes as columns."""
    known, labels = tested.known, tested.labels
    confusion = confusion_matrix(logits.argmax(dim=1), labels, len(tested.class_ids))
    hits = int(confusion.trace())
    names = dict(zip(card.class_ids, card.class_names, strict=True))
    per_class = tuple(
        class_report(class_id, names[class_id], row, row[label])
        for label, (class_id, row) in enumerate(zip(tested.class_ids, confusion.tolist(), strict=True))
    )
    recalls = [each.accuracy for each in per_class if each.accuracy is not None]
    return BenchmarkReport(
        name=known.name,
        kind=known.place.kind if known.place else None,
        images=len(labels),
        classes=len(tested.class_ids),
        of_classes=len(known.class_ids),
        image_size=card.image_size,
        crop_pct=known.crop_pct,
        set_digest=known.place.digest if known.place else None,
        top1=hits / len(labels),
        top5=top_k_hits(logits, labels, 5) / len(labels),
        interval=wilson_interval(hits, len(labels)),
        mean_per_class=fmean(recalls),
        ece=calibration(logits, labels).error,
        per_class=per_class,
        confusion=tuple(map(tuple, confusion.tolist())) if len(per_class) <= MOST_CONFUSED else None,
        worst=worst_classes(per_class, confusion),
    )


def worst_classes(per_class: Sequence[ClassReport], confusion: Tensor) -> tuple[WorstClass, ...]:
    """The worst first, of equal ones that which comes first in the set; none that is always right.

    confusion (C, C) has a row for each true class.
    """
    mistaken, taken_for = confusion.clone().fill_diagonal_(0).max(dim=1)
    wrong = [label for label, each in enumerate(per_class) if each.images and each.accuracy != 1]
    wrong.sort(key=lambda label: per_class[label].accuracy or 0.0)
    return tuple(
        WorstClass(
            **per_class[label].model_dump(),
            taken_for=per_class[int(taken_for[label])].name,
            mistaken=int(mistaken[label]),
        )
        for label in wrong[:WORST_CLASSES]
    )


def class_report(class_id: str, name: str, row: list[int], hits: int) -> ClassReport:
    images = sum(row)
    return ClassReport(id=class_id, name=name, accuracy=hits / images if images else None, images=images)
