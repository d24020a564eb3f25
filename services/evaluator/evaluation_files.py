"""The report of an evaluation in all its forms: as data, to read, and as a figure."""

import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .bars import Bar, Series
from .evaluation_page import markdown, page
from .evaluation_tables import model_names
from .figure_files import Drawn, draw, refuse_equal_colours, shortened
from .figures import grouped
from .metrics import wilson_interval
from .mistakes import MOST_BYTES, Mistake, Photo, mistakes_in
from .predictions import Predictions
from .report import Report

LEGEND_LETTERS = 40  # to a line
LEGEND_CHARACTERS = 120


def make_files(report: Report, measured: Sequence[tuple[Predictions, Photo]]) -> dict[str, bytes]:
    """By file name; "report" is the JSON. `measured` has what the page shows photos of."""
    drawn = Drawn([], [])
    with tempfile.TemporaryDirectory() as folder:
        draw(drawn, Path(folder) / "bars", lambda: bars_figure(report))
        figures = {name: (Path(folder) / name).read_bytes() for name in drawn.files}
    report = report.model_copy(update={"notes": (*report.notes, *drawn.notes)})
    vectors = {name: data for name, data in figures.items() if name.endswith(".svg")}
    return figures | {
        "report.md": markdown(report, list(vectors)).encode(),
        "report.html": page(report, vectors, mistakes_of(measured)).encode(),
        "report": report.model_dump_json(indent=2).encode(),
    }


def mistakes_of(measured: Sequence[tuple[Predictions, Photo]]) -> Mapping[str, list[Mistake]]:
    """By test set; all of them share the room of one page."""
    most_bytes = MOST_BYTES // max(1, len(measured))
    return {found.report.name: mistakes_in(found, photo, most_bytes=most_bytes) for found, photo in measured}


def bars_figure(report: Report) -> Figure | None:
    """Top-1 on each test set, of this network and of those it is compared with; None where there is no test set."""
    if not report.benchmarks:
        return None
    names = model_names(report)
    refuse_equal_colours(len(names))
    labels = [textwrap.fill(label, LEGEND_LETTERS) for label in shortened(list(names.values()), LEGEND_CHARACTERS)]
    series = [
        Series(label, tuple(bars_of(report, evaluation))) for evaluation, label in zip(names, labels, strict=True)
    ]
    return grouped(series, legend_title="trained on")


def bars_of(report: Report, evaluation: str) -> Iterator[Bar]:
    """Measured and published ones."""
    if evaluation == report.evaluation:
        for known in report.benchmarks:
            yield from bars(known.name, known.top1, known.images, known.published)
        return
    for comparison in report.comparisons:
        for model in comparison.models:
            if model.evaluation == evaluation:
                yield from bars(comparison.benchmark, model.top1, comparison.images, model.published)


def bars(name: str, top1: float, images: int, published: float | None) -> Iterator[Bar]:
    yield Bar(name, top1, *wilson_interval(round(top1 * images), images), is_published=False)
    if published is not None:
        yield Bar(name, published, None, None, is_published=True)
