"""The demo's two pictures."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from .report import Row

SYNTHETIC_COLOUR = "#3b6fb6"
REAL_COLOUR = "#bdbdbd"


class Column(NamedTuple):
    """Samples of one training set: for each class in label order, images (H, W, 3) uint8."""

    title: str
    classes: Sequence[Sequence[NDArray[np.uint8]]]


def axis_start(rows: Sequence[Row]) -> int:
    """0, or a multiple of ten well below every bar where differences would else be invisible."""
    lowest = min(known.top1_mean - known.top1_sd for known in rows)
    return max(0, 10 * math.floor((lowest - 5) / 10)) if lowest >= 60 else 0


def draw_bars(rows: Sequence[Row], path: Path) -> None:
    figure = Figure(figsize=(1.6 + 1.5 * len(rows), 4.2), layout="constrained")
    axes = figure.subplots()
    start = axis_start(rows)
    draw_each(axes, rows)
    axes.set_ylim(start, 102)
    axes.set_yticks(range(start, 101, 5 if start else 20))
    said = f", axis starts at {start} %" if start else ""
    axes.set_ylabel(f"top-1 (%) on {rows[0].n_test} real test digits{said}")
    axes.set_title(f"Mean of {len(rows[0].top1)} seeds, error bars: standard deviation", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=120)


def draw_each(axes: Axes, rows: Sequence[Row]) -> None:
    for place, known in enumerate(rows):
        real = known.guidance is None
        axes.bar(
            place,
            known.top1_mean,
            yerr=known.top1_sd,
            width=0.65,
            capsize=4,
            color=REAL_COLOUR if real else SYNTHETIC_COLOUR,
            hatch="//" if real else None,
            edgecolor="#555555",
        )
        axes.annotate(
            f"{known.top1_mean:.1f}",
            (place, known.top1_mean + known.top1_sd),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
        )
    axes.set_xticks(range(len(rows)), [label(known) for known in rows])


def label(known: Row) -> str:
    return f"{known.train.replace(', ', chr(10))}\n{known.images} images"


def draw_samples(columns: Sequence[Column], names: Sequence[str], path: Path) -> None:
    """Rows are classes; each column shows a few images of one training set side by side."""
    figure = Figure(figsize=(2.6 * len(columns), 0.62 * len(names) + 0.5), layout="constrained")
    grid = figure.subplots(len(names), len(columns), squeeze=False)
    for column, (title, classes) in enumerate(columns):
        grid[0][column].set_title(title, fontsize=9)
        for line, images in enumerate(classes):
            draw_strip(grid[line][column], images)
    for line, name in enumerate(names):
        grid[line][0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(path, format="png", dpi=120)


def draw_strip(axes: Axes, images: Sequence[NDArray[np.uint8]]) -> None:
    axes.imshow(np.concatenate(list(images), axis=1))
    axes.set_xticks([])
    axes.set_yticks([])


def decoded(jpeg: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))
