"""The report of an evaluation."""

from shared.vision.networks import EncoderCard

from pydantic import BaseModel, ConfigDict, JsonValue
from torch import Tensor

from .benchmarks import Benchmark
from .metrics import confusion_matrix, top_k_hits, wilson_interval


class ClassReport(BaseModel):
    """`accuracy` is null for a class without test images."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    accuracy: float | None
    images: int


class BenchmarkReport(BaseModel):
    """`interval` is the 95 % Wilson interval of top1; `confusion` has a row per true class."""

    model_config = ConfigDict(frozen=True)

    name: str
    images: int
    top1: float
    top5: float
    interval: tuple[float, float]
    per_class: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]


class Report(BaseModel):
    model_config = ConfigDict(frozen=True)

    evaluation: str
    training: str
    encoder_sha256: str
    benchmarks: tuple[BenchmarkReport, ...]
    versions: dict[str, str]

    def summary(self) -> dict[str, JsonValue]:
        return {known.name: {"top1": known.top1, "n": known.images} for known in self.benchmarks}


def report_benchmark(benchmark: Benchmark, card: EncoderCard, *, logits: Tensor, labels: Tensor) -> BenchmarkReport:
    """logits (N, C) with the benchmark's classes as columns; labels (N,)."""
    class_ids, count = benchmark.known.class_ids, len(labels)
    confusion = confusion_matrix(logits.argmax(dim=1), labels, len(class_ids))
    hits = int(confusion.trace())
    names = dict(zip(card.class_ids, card.class_names, strict=True))
    return BenchmarkReport(
        name=benchmark.known.name,
        images=count,
        top1=hits / count,
        top5=top_k_hits(logits, labels, 5) / count,
        interval=wilson_interval(hits, count),
        per_class=tuple(
            class_report(class_id, names[class_id], row, row[label])
            for label, (class_id, row) in enumerate(zip(class_ids, confusion.tolist(), strict=True))
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def class_report(class_id: str, name: str, row: list[int], hits: int) -> ClassReport:
    images = sum(row)
    return ClassReport(id=class_id, name=name, accuracy=hits / images if images else None, images=images)
