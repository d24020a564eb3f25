"""The figures of a comparison as SVG: equal input gives equal bytes, and every bar says its number."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from shared.errors import Rejected

from .bars import Bar, Curve, Prompt, Series, Size

# Paul Tol, Colour schemes (SRON/EPS/TN/09-002, 2021), "medium contrast": told apart by the colour-blind and in grey.
COLOURS = ("#004488", "#997700", "#EE99AA", "#994455", "#6699CC", "#EECC66")
HATCHES = ("", "//", "..", "", "\\\\", "xx")
DASHES = ("-", "--", "-.", ":", "-", "--")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK = "#333333"
BAR_INCHES = 0.42  # room for "100.0" in the font of the numbers
BAR_SHARE = 0.86  # of the room between two bars' left edges
NUMBER_SIZE, LABEL_SIZE = 7.5, 9.0
LEGEND_COLUMNS = 3
KEY_INCHES, LETTER_INCHES = 0.6, 0.075  # of a legend's entry in the font of the labels
LABEL_LETTERS = 16  # to a line below a group of bars
LEAST_TOP = 0.05  # a set on which nothing is right has an axis too
LEAST_WIDTH = 8  # bars; one or two would fill the figure
LINE_POINTS = 12  # of the table below the curves


class Slot(NamedTuple):
    """A look: the colour of a series or curve, filled or, for published numbers, hollow."""

    series: int
    is_published: bool


def bars(series: Sequence[Series], path: Path) -> None:
    """Top-1 of each model (a Series) on each test set (the bars' names); published bars are hollow."""
    with style():
        save(grouped(series, legend_title="model"), path)


def prompts(points: Sequence[Prompt], path: Path) -> None:
    """Top-1 of each prompt, one colour for each guidance scale in ascending order."""
    scales = sorted({point.guidance for point in points})
    series = [Series(f"{scale:g}", tuple(point.bar for point in points if point.guidance == scale)) for scale in scales]
    with style():
        save(grouped(series, legend_title="guidance"), path)


def sizes(curves: Sequence[Curve], real: Bar, path: Path) -> None:
    """Top-1 against the size of the training set, with that of the real images as a line across."""
    with style():
        save(traced(curves, real), path)


def traced(curves: Sequence[Curve], real: Bar | None) -> Figure:
    """The numbers stand in a table below, a column for each size: beside the points they would cover other curves."""
    found = [size.bar for curve in curves for size in curve.sizes]
    check_drawable(len(curves), found)
    slots = sorted({Slot(place, size.bar.is_published) for place, curve in enumerate(curves) for size in curve.sizes})
    ticks = sorted({size.times for curve in curves for size in curve.sizes})
    figure = Figure(figsize=(2 + 1.1 * max(4, len(ticks)), 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{times:g}x" for times in ticks], fontsize=LABEL_SIZE)
    axes.set_xticks([], minor=True)
    axes.margins(x=0.1)
    if real is not None:
        draw_real(axes, real)
    for row, slot in enumerate(slots):
        draw_curve(axes, slot, curves[slot.series])
        draw_table_row(axes, row, slot, curves[slot.series])
    what, below = "training images, as a multiple of the real set", LINE_POINTS * len(slots) + 6
    axes.set_xlabel(what, fontsize=LABEL_SIZE, labelpad=below)
    dress(axes, [*found, *([] if real is None else [real])])
    add_legend(figure, None)
    return figure


def grouped(series: Sequence[Series], *, legend_title: str) -> Figure:
    """Groups are the bars' names in order of appearance; within one the bars stand side by side without gaps."""
    everything = [bar for each in series for bar in each.bars]
    check_drawable(len(series), everything)
    places, centres = placed(series)
    last = max(place for row in places.values() for place in row)
    width = max(LEAST_WIDTH, last + 2)
    figure = Figure(figsize=(1.2 + BAR_INCHES * width, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim((last - width) / 2, (last + width) / 2)
    for slot in sorted(places):
        draw_slot(axes, slot, series[slot.series].name, places[slot])
    labels = [textwrap.fill(name, LABEL_LETTERS) for name in centres]
    axes.set_xticks(list(centres.values()), labels, fontsize=LABEL_SIZE)
    axes.tick_params(axis="x", length=0)
    dress(axes, everything)
    add_legend(figure, legend_title)
    return figure


def placed(series: Sequence[Series]) -> tuple[dict[Slot, dict[int, Bar]], dict[str, float]]:
    """Where the bars of each look stand, and the middle of each group; a bar and a gap between groups are 1 wide."""
    groups: dict[str, dict[Slot, Bar]] = {}
    for index, each in enumerate(series):
        for bar in each.bars:
            groups.setdefault(bar.name, {})[Slot(index, bar.is_published)] = bar
    places: dict[Slot, dict[int, Bar]] = {}
    centres: dict[str, float] = {}
    start = 0
    for name, group in groups.items():
        for place, slot in enumerate(sorted(group), start):
            places.setdefault(slot, {})[place] = group[slot]
        centres[name] = start + (len(group) - 1) / 2
        start += len(group) + 1
    return places, centres


def draw_slot(axes: Axes, slot: Slot, name: str, found: Mapping[int, Bar]) -> None:
    colour = COLOURS[slot.series]
    axes.bar(
        list(found),
        [100 * bar.value for bar in found.values()],
        width=BAR_SHARE,
        label=labelled(name, slot.is_published),
        facecolor="white" if slot.is_published else colour,
        edgecolor=colour if slot.is_published else INK,
        hatch=None if slot.is_published else HATCHES[slot.series],
        linewidth=1.6 if slot.is_published else 0.6,
        linestyle=DASHES[slot.series] if slot.is_published else "-",
    )
    for place, bar in found.items():
        draw_whisker(axes, place, bar, colour="white", width=3)
        draw_whisker(axes, place, bar, colour=INK, width=1)
        above = (place, 100 * bar.ends[1])
        axes.annotate(number(bar), above, (0, 3), textcoords="offset points", ha="center", fontsize=NUMBER_SIZE)


def draw_whisker(axes: Axes, place: float, bar: Bar, *, colour: str, width: float) -> None:
    if bar.low is None:
        return
    low, high = bar.ends
    reach = [[100 * max(0, bar.value - low)], [100 * max(0, high - bar.value)]]
    axes.errorbar(
        [place],
        [100 * bar.value],
        yerr=reach,
        fmt="none",
        ecolor=colour,
        elinewidth=width,
        capthick=width,
        capsize=1.5 + width,
    )


def draw_curve(axes: Axes, slot: Slot, curve: Curve) -> None:
    found, colour = shown(slot, curve), COLOURS[slot.series]
    axes.plot(
        [size.times for size in found],
        [100 * size.bar.value for size in found],
        color=colour,
        linestyle=DASHES[slot.series],
        linewidth=1.0 if slot.is_published else 1.6,
        marker=MARKERS[slot.series],
        markerfacecolor="white" if slot.is_published else colour,
        markeredgecolor=colour if slot.is_published else INK,
        label=labelled(curve.name, slot.is_published),
    )
    for size in found:
        draw_whisker(axes, size.times, size.bar, colour=INK, width=1)


def shown(slot: Slot, curve: Curve) -> list[Size]:
    found = (size for size in curve.sizes if size.bar.is_published == slot.is_published)
    return sorted(found, key=lambda size: size.times)


def draw_table_row(axes: Axes, row: int, slot: Slot, curve: Curve) -> None:
    below = -22 - LINE_POINTS * row  # points under the axis
    left = offset_copy(axes.transAxes, axes.get_figure(root=True), x=4, y=below, units="points")
    axes.text(
        0, 0, labelled(curve.name, slot.is_published), transform=left, ha="right", va="center", fontsize=NUMBER_SIZE
    )
    columns = offset_copy(axes.get_xaxis_transform(), axes.get_figure(root=True), y=below, units="points")
    for size in shown(slot, curve):
        axes.text(size.times, 0, number(size.bar), transform=columns, ha="center", va="center", fontsize=NUMBER_SIZE)


def draw_real(axes: Axes, real: Bar) -> None:
    """Its number stands outside the axes, where no curve comes."""
    height = 100 * real.value
    axes.axhline(height, color=INK, linestyle="--", linewidth=1.2, label=labelled(real.name, real.is_published))
    if real.low is not None:
        axes.axhspan(*(100 * end for end in real.ends), color=INK, alpha=0.15, linewidth=0)
    across = axes.get_yaxis_transform()
    axes.text(1.01, height, number(real), transform=across, va="center", fontsize=NUMBER_SIZE, color=INK)


def dress(axes: Axes, found: Sequence[Bar]) -> None:
    """The axis starts at 0 and leaves room for the numbers."""
    top = 112 * max(*(bar.ends[1] for bar in found), LEAST_TOP)
    step = next((step for step in (1, 2, 5, 10) if top <= 8 * step), 20)
    axes.set_ylim(0, top)
    axes.set_yticks(range(0, math.floor(min(top, 100)) + 1, step))
    said = "\nwhiskers: 95 % interval" if any(bar.low is not None for bar in found) else ""
    axes.set_ylabel(f"top-1 (%) on real images{said}", fontsize=LABEL_SIZE)
    axes.spines[["top", "right"]].set_visible(False)


def number(bar: Bar) -> str:
    return f"{100 * bar.value:.1f}"


def add_legend(figure: Figure, title: str | None) -> None:
    figure.legend(
        loc="outside upper left",
        ncols=fitting_columns(figure),
        title=title,
        alignment="left",
        frameon=False,
        fontsize=LABEL_SIZE,
        title_fontsize=LABEL_SIZE,
    )


def fitting_columns(figure: Figure) -> int:
    """Of a legend: what does not fit would be cut off at the right."""
    _, labels = figure.axes[0].get_legend_handles_labels()
    longest = max(len(line) for label in labels for line in label.splitlines())
    return min(LEGEND_COLUMNS, max(1, int(figure.get_figwidth() / (KEY_INCHES + LETTER_INCHES * longest))))


def labelled(name: str, is_published: bool) -> str:
    return f"{name}, published" if is_published else name


def check_drawable(colours: int, found: Sequence[Bar]) -> None:
    if not found:
        raise Rejected("a figure needs at least one bar, there is none")
    if colours > len(COLOURS):
        raise Rejected(f"a figure tells {len(COLOURS)} series apart and {colours} were given; draw two figures")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None})


def style() -> AbstractContextManager[None]:
    """Text stays text, dollar signs too, to be searched and read aloud; ids are hashes of a fixed salt, not random."""
    return rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "synthclone", "text.parse_math": False, "hatch.linewidth": 0.6}
    )
