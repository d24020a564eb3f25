"""The report of an experiment: numbers over seeds, and the same to read as Markdown or in a browser."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue
from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy ships no types

from shared.frozen import Frozen

from .metrics import wilson_interval
from .pages import document, figure, heading, listed, markdown_list, markdown_table, plain, table

WHISKERS = (
    "The interval is that of the mean for 95 %: of the choice of test images (Wilson) and of the seeds (Student's t) "
    "together."
)
UPPER_95 = 0.975  # both tails together leave 5 %
COLUMNS = ("trained on", "images", "seeds", "top-1 %", "sd over seeds", "95 % interval", "published %")


class Score(Frozen):
    """Top-1 from 0 to 1 on one test set, one value per seed; `deviation` is null for a single seed."""

    benchmark: str
    images: int
    top1: tuple[float, ...]
    mean: float
    deviation: float | None
    interval: tuple[float, float]
    published: float | None


class Row(Frozen):
    """Networks that differ only in their seed; of real images `prompt`, `guidance` and `amount` are null."""

    trained_on: str
    recipe: str
    real: str | None
    prompt: str | None
    guidance: float | None
    amount: str | None
    model: str | None
    sampler_steps: int | None
    approximation: str | None = None
    images: int
    times: float | None
    seeds: tuple[int, ...]
    trainings: tuple[str, ...]
    evaluations: tuple[str, ...]
    scores: tuple[Score, ...]


class Failure(Frozen):
    trained_on: str
    recipe: str
    seed: int
    job: str
    state: str
    reason: str


class ExperimentReport(Frozen):
    experiment: str
    name: str
    benchmarks: tuple[str, ...]
    recipes: dict[str, dict[str, JsonValue]]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    versions: dict[str, str]


def score(benchmark: str, *, images: int, top1: Sequence[float], published: float | None) -> Score:
    mean = statistics.fmean(top1)
    return Score(
        benchmark=benchmark,
        images=images,
        top1=tuple(top1),
        mean=mean,
        deviation=statistics.stdev(top1) if len(top1) > 1 else None,
        interval=interval(top1, images),
        published=published,
    )


def interval(top1: Sequence[float], images: int) -> tuple[float, float]:
    """Of the mean over seeds, 95 %; more seeds average out the training, never the choice of test images.

    The few seeds estimate their own spread, so theirs is Student's t with n - 1 degrees of freedom (Student 1908).
    """
    mean = statistics.fmean(top1)
    low, high = wilson_interval(round(mean * images), images)
    seeds = half_width(top1) if len(top1) > 1 else 0.0
    # A rounded number of hits may put the end of the interval just beyond the mean.
    below, above = math.hypot(max(0.0, mean - low), seeds), math.hypot(max(0.0, high - mean), seeds)
    return (max(0.0, mean - below), min(1.0, mean + above))


def half_width(values: Sequence[float]) -> float:
    quantile = float(stdtrit(len(values) - 1, UPPER_95))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def sections(report: ExperimentReport) -> Iterable[tuple[str, str, list[tuple[str, ...]]]]:
    """Recipe, test set and the cells of a table, for each pair that has numbers."""
    for recipe in report.recipes:
        for benchmark in report.benchmarks:
            cells = [
                cells_of(row, known)
                for row in report.rows
                for known in row.scores
                if (row.recipe, known.benchmark) == (recipe, benchmark)
            ]
            if cells:
                yield recipe, benchmark, cells


def cells_of(row: Row, known: Score) -> tuple[str, ...]:
    return (
        row.trained_on,
        f"{row.images:,}",
        str(len(known.top1)),
        f"{100 * known.mean:.1f}",
        "-" if known.deviation is None else f"{100 * known.deviation:.1f}",
        f"{100 * known.interval[0]:.1f} to {100 * known.interval[1]:.1f}",
        "-" if known.published is None else f"{100 * known.published:.1f}",
    )


def section_title(report: ExperimentReport, recipe: str, benchmark: str) -> str:
    images = next(
        known.images
        for row in report.rows
        for known in row.scores
        if (row.recipe, known.benchmark) == (recipe, benchmark)
    )
    way = f", trained by {recipe}" if len(report.recipes) > 1 else ""
    return f"{benchmark} ({images:,} images){way}"


def failure_words(failure: Failure) -> str:
    return (
        f"{failure.trained_on}, {failure.recipe}, seed {failure.seed}: {failure.job} {failure.state}: {failure.reason}"
    )


def recipe_words(name: str, fields: Mapping[str, JsonValue]) -> str:
    return f"{name}: {', '.join(f'{key} {value}' for key, value in fields.items())}"


def closing(report: ExperimentReport) -> list[str]:
    """What a reader needs to judge and repeat the numbers."""
    return [
        WHISKERS,
        *(recipe_words(name, fields) for name, fields in report.recipes.items()),
        *report.notes,
        f"Experiment {report.experiment}; versions: "
        + ", ".join(f"{name} {version}" for name, version in report.versions.items()),
    ]


def markdown(report: ExperimentReport, figures: Sequence[str]) -> str:
    """`figures` are names of SVG files beside it."""
    lines = [f"# {plain(report.name)}", ""]
    for recipe, benchmark, cells in sections(report):
        lines += [f"## {section_title(report, recipe, benchmark)}", "", *markdown_table(COLUMNS, cells)]
    lines += [line for name in figures for line in (f"![{name}]({name})", "")]
    if report.failures:
        lines += ["## Failed", "", *markdown_list(map(failure_words, report.failures)), ""]
    return "\n".join([*lines, *markdown_list(closing(report))]) + "\n"


def page(report: ExperimentReport, figures: Mapping[str, bytes]) -> str:
    """`figures` are the SVG files by name, which it holds as pictures."""
    body = [figure(name, svg) for name, svg in figures.items()]
    for recipe, benchmark, cells in sections(report):
        body += [heading(section_title(report, recipe, benchmark)), table(COLUMNS, cells)]
    if report.failures:
        body += [heading("Failed"), listed(map(failure_words, report.failures))]
    return document(report.name, [*body, listed(closing(report))])
