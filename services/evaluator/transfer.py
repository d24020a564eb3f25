"""Transfer: a classifier of an encoder's features, fitted and tested on another set of real images."""

import functools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

from shared.vision.real.registered import open_transfer_set

from pydantic import BaseModel, ConfigDict

from shared.realsets import RealSet

from .features import Embedding, cached_examples
from .linear import Check, Examples
from .neighbours import TEMPERATURE, predict_neighbours
from .tuning import LOGISTIC, SGD, TRIALS, ProbeResult, run_probe

# Hundreds of thousands of images in thousands of classes: L-BFGS would take days there.
LARGE = ("inaturalist2018", "inaturalist2019", *(f"cog-l{level}" for level in range(1, 6)))
GROUPS = {
    "small sets": ("aircraft", "cars196", "dtd", "eurosat", "flowers102", "pets", "food101", "sun397"),
    "long tail": ("inaturalist2018", "inaturalist2019"),
    "concept generalisation": tuple(f"cog-l{level}" for level in range(1, 6)),
}


class SeedReport(BaseModel):
    """`settings` were chosen by `validation_top1`, on the part of the training images held out."""

    model_config = ConfigDict(frozen=True)

    seed: int
    settings: dict[str, float]
    validation_top1: float
    top1: float
    mean_per_class: float


class TransferReport(BaseModel):
    """Shares of 1: means over the seeds, and their sample deviations (0 for one seed).

    `neighbours_top1` is of a vote of the `neighbours` nearest training images; both are null unless asked for.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    set_digest: str
    probe: str
    trials: int
    classes: int
    train_images: int
    test_images: int
    features: int
    top1: float
    top1_deviation: float
    mean_per_class: float
    mean_per_class_deviation: float
    seeds: tuple[SeedReport, ...]
    neighbours: int | None = None
    neighbours_top1: float | None = None


class Stopped(Exception):
    """Told to stop in the middle; what was computed is cached or done again."""


def stop_check(stops: Sequence[threading.Event]) -> Callable[[], None]:
    def check() -> None:
        if any(event.is_set() for event in stops):
            raise Stopped

    return check


def probe_transfer(known: RealSet, embedding: Embedding, *, seeds: int, neighbours: int | None) -> TransferReport:
    """The test images are read once, after every choice; the number of neighbours is given, not chosen.

    Raises Stopped when the embedding's check does.
    """
    assert known.place is not None
    assert known.place.kind is not None
    found = open_transfer_set(known)
    classes, is_large = len(known.class_ids), known.place.kind in LARGE
    training = cached_examples(found.train, embedding)

    @functools.cache
    def tested() -> Examples:
        return cached_examples(found.test, embedding)

    probe = SGD if is_large else LOGISTIC
    result = run_probe(probe, training, tested, classes, seeds=range(seeds), check=embedding.check)
    sizes = len(found.train), len(found.test), training.features.shape[1]
    report = report_of(known, result, sizes, probe="sgd" if is_large else "logistic regression")
    if neighbours is None:
        return report
    top1 = vote_top1(training, tested(), classes, k=neighbours, check=embedding.check)
    return report.model_copy(update={"neighbours": neighbours, "neighbours_top1": top1})


def vote_top1(training: Examples, tested: Examples, classes: int, *, k: int, check: Check) -> float:
    predicted = predict_neighbours(training, tested.features, classes, k=k, temperature=TEMPERATURE, check=check)
    return int((predicted == tested.labels).sum()) / len(tested.labels)


def report_of(known: RealSet, result: ProbeResult, sizes: tuple[int, int, int], *, probe: str) -> TransferReport:
    """sizes: training images, test images, features."""
    assert known.place is not None
    return TransferReport(
        name=known.name,
        kind=str(known.place.kind),
        set_digest=known.place.digest,
        probe=probe,
        trials=TRIALS,
        classes=len(known.class_ids),
        train_images=sizes[0],
        test_images=sizes[1],
        features=sizes[2],
        top1=result.top1.mean,
        top1_deviation=result.top1.deviation,
        mean_per_class=result.mean_per_class.mean,
        mean_per_class_deviation=result.mean_per_class.deviation,
        seeds=tuple(SeedReport.model_validate(score._asdict()) for score in result.scores),
    )


def group_means(reports: Sequence[TransferReport]) -> dict[str, float]:
    """Mean top-1 of each group of which every set was tested once: a mean over some would be no published figure, and
    of two registered copies of one set nobody says which counts."""
    top1 = {report.kind: report.top1 for report in reports}
    times = Counter(report.kind for report in reports)
    whole = {name: kinds for name, kinds in GROUPS.items() if all(times[kind] == 1 for kind in kinds)}
    return {name: fmean(top1[kind] for kind in kinds) for name, kinds in whole.items()}
