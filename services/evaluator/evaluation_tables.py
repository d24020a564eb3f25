"""The tables of an evaluation's report and the words around them, whatever they are written down as."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from .dataset_distances import DistanceReport
from .report import BenchmarkReport, ComparedModel, ComparisonReport, Report
from .trained import TrainedReport

WILSON = "Intervals of test sets are Wilson's for 95 %; per class means the mean over the classes."
TEST_SETS = (
    *("test set", "images", "classes", "top-1 %", "95 % interval", "published %"),
    *("top-5 %", "per class %", "calibration error %"),
)
MODELS = ("trained on", "training", "top-1 %", "95 % interval", "published %")
PAIRS = ("first less second", "difference in points", "95 % interval", "first not better in % of resamples")
TRANSFER = (
    *("transfer set", "classes", "training images", "test images", "classifier"),
    *("top-1 %", "sd over seeds", "per class %", "nearest neighbours %"),
)
WORST = ("class", "accuracy %", "images", "most often taken for", "of these")
DISTANCES = (
    *("dataset", "real set", "images of each", "classes of both", "Fréchet"),
    *("precision %", "recall %", "density", "coverage %", "near a photo %"),
)
NONE = "-"


class Section(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def title(report: Report) -> str:
    return (
        f"{report.trained.architecture} trained on {report.trained.trained_on}" if report.trained else report.training
    )


def tables(report: Report) -> Iterator[Section]:
    """Those that have rows."""
    if report.benchmarks:
        yield Section("Test sets", TEST_SETS, [test_row(known) for known in report.benchmarks])
    names = model_names(report)
    for comparison in report.comparisons:
        yield Section(f"Compared on {comparison.benchmark}", MODELS, model_rows(comparison, names))
        yield Section(f"Differences on {comparison.benchmark}", PAIRS, pair_rows(comparison))
    if report.transfer:
        yield Section("Transfer: classifiers on the features", TRANSFER, transfer_rows(report))
    if report.transfer_means:
        means = [(name, percent(value)) for name, value in report.transfer_means.items()]
        yield Section("Transfer: means of groups", ("group", "mean top-1 %"), means)
    if report.distances:
        yield Section(
            "Distances of datasets to real sets", DISTANCES, [distance_row(each) for each in report.distances]
        )


def test_row(known: BenchmarkReport) -> tuple[str, ...]:
    classes = (
        f"{known.classes:,}" if known.classes == known.of_classes else f"{known.classes:,} of {known.of_classes:,}"
    )
    return (
        *(known.name, f"{known.images:,}", classes, percent(known.top1), span(known.interval)),
        *(percent(known.published), percent(known.top5), percent(known.mean_per_class), percent(known.ece)),
    )


def model_names(report: Report) -> dict[str, str]:
    """By evaluation, the report's own first: what each was trained on, and what else tells them apart."""
    models = {model.evaluation: model for comparison in report.comparisons for model in comparison.models}
    if report.evaluation not in models:
        return {report.evaluation: report.trained.trained_on if report.trained else report.training}
    facts = {evaluation: facts_of(model) for evaluation, model in models.items()}
    varied = [place for place, values in enumerate(zip(*facts.values(), strict=True)) if len(set(values)) > 1]
    seen: Counter[str] = Counter()
    names = {}
    for evaluation, words in facts.items():
        name = ", ".join(words[place] for place in sorted({0, *varied}))
        seen[name] += 1
        names[evaluation] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names


def facts_of(model: ComparedModel) -> tuple[str, ...]:
    seed = "not known" if model.seed is None else str(model.seed)
    return (model.trained_on, model.architecture, f"recipe {model.recipe}", f"seed {seed}")


def model_rows(comparison: ComparisonReport, names: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Numbered, as the differences name them."""
    return [
        (
            *(f"{number}: {names[model.evaluation]}", model.training, percent(model.top1)),
            *(span(model.interval), percent(model.published)),
        )
        for number, model in enumerate(comparison.models, 1)
    ]


def pair_rows(comparison: ComparisonReport) -> list[tuple[str, ...]]:
    numbers = {model.evaluation: number for number, model in enumerate(comparison.models, 1)}
    return [
        (
            f"{numbers[pair.first]} less {numbers[pair.second]}",
            f"{100 * pair.difference:+.1f}",
            f"{100 * pair.interval[0]:+.1f} to {100 * pair.interval[1]:+.1f}",
            f"{100 * pair.share_not_better:.2f}",
        )
        for pair in comparison.pairs
    ]


def transfer_rows(report: Report) -> list[tuple[str, ...]]:
    return [
        (
            *(known.name, f"{known.classes:,}", f"{known.train_images:,}", f"{known.test_images:,}", known.probe),
            *(percent(known.top1), percent(known.top1_deviation) if len(known.seeds) > 1 else NONE),
            *(percent(known.mean_per_class), percent(known.neighbours_top1)),
        )
        for known in report.transfer
    ]


def distance_row(known: DistanceReport) -> tuple[str, ...]:
    of_classes = f"{known.classes:,} of {known.dataset_classes:,} and {known.real_classes:,}"
    return (
        *(known.dataset, known.real, f"{known.images:,}", of_classes, f"{known.frechet:.4g}"),
        *(percent(known.precision), percent(known.recall), f"{known.density:.3f}", percent(known.coverage)),
        percent(known.memorisation.share_within[0] if known.memorisation else None),
    )


def worst_classes(known: BenchmarkReport) -> Section:
    rows = [
        (worst.name, percent(worst.accuracy), f"{worst.images:,}", worst.taken_for, f"{worst.mistaken:,}")
        for worst in known.worst
    ]
    return Section(f"Worst classes of {known.name}", WORST, rows)


def closing(report: Report) -> Iterator[str]:
    """What a reader needs to judge and repeat the numbers."""
    yield WILSON
    for comparison in report.comparisons[:1]:
        yield (
            f"Comparisons: paired bootstrap over the images, {comparison.resamples:,} resamples by seed "
            f"{comparison.seed}, percentile intervals for 95 % (Efron and Tibshirani 1993, chapter 13)."
        )
    for known in report.benchmarks:
        yield f"{known.name}: {view_words(known)}; digest {known.set_digest or 'of a built-in set'}"
    for probed in report.transfer:
        seeds = ", ".join(str(each.seed) for each in probed.seeds)
        near = f", {probed.neighbours} nearest neighbours" if probed.neighbours else ""
        yield f"{probed.name}: {probed.probe}, {probed.trials} trials, seeds {seeds}{near}; digest {probed.set_digest}"
    for compared in report.distances:
        yield distance_words(compared)
    if report.trained:
        yield from training_words(report.trained)
    yield from report.notes
    yield (
        f"Evaluation {report.evaluation} of {report.training}, encoder sha256 {report.encoder_sha256}; "
        f"versions: {spelled(report.versions)}"
    )


def view_words(known: BenchmarkReport) -> str:
    short = round(known.image_size / known.crop_pct)
    return f"short side to {short} pixels, centre square of {known.image_size} (crop_pct {known.crop_pct:g})"


def distance_words(known: DistanceReport) -> str:
    words = (
        f"{known.dataset} and {known.real}: {known.images:,} images drawn of {known.drawn_of:,} and {known.real_of:,} "
        f"by seed {known.seed}, {known.space.layer} of {known.space.training}, {known.space.width} values; "
        f"{known.precision_neighbours} neighbours for precision and recall, {known.coverage_neighbours} for density "
        "and coverage"
    )
    found = known.memorisation
    if found is None:
        return f"{words}; near a photo: {known.memorisation_missing}"
    return (
        f"{words}; near a photo are drawn images that are as near to one of {found.bank:,} photos as the nearest "
        f"{100 * found.quantiles[0]:g} % of these are to each other"
    )


def training_words(trained: TrainedReport) -> Iterator[str]:
    length = f", {trained.steps:,} steps" if trained.steps else ""
    yield (
        f"Trained on {trained.trained_on}: {trained.images:,} images, {trained.architecture} at {trained.image_size} "
        f"pixels, seed {trained.seed}{length}"
    )
    if trained.datasets:
        digests = ", ".join(trained.recipe_digests)
        yield f"Datasets {', '.join(trained.datasets)}, drawn by the recipes with the digests {digests}"
    yield f"Training recipe: {spelled(trained.recipe)}"
    yield f"Versions of the training: {spelled(trained.versions)}"


def spelled(values: Mapping[str, JsonValue] | Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"


def span(interval: tuple[float, float]) -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}"
