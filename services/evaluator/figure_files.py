"""A figure as SVG and PNG, or the reason why there is none."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from shared.errors import Rejected

from .figures import COLOURS, save, style

SHOWN_CHARACTERS = 48
PNG_DPI = 150


class Drawn(NamedTuple):
    """Names of the files, and why a figure is missing."""

    files: list[str]
    notes: list[str]


def draw(drawn: Drawn, path: Path, make: Callable[[], Figure | None]) -> None:
    """What cannot be drawn must not cost the report its numbers: it is told in a note."""
    with style():
        try:
            figure = make()
        except Rejected as refused:
            drawn.notes.append(f"no figure {path.name}: {refused.detail}")
            return
        if figure is None:
            return
        save(figure, path.with_suffix(".svg"))
        figure.savefig(path.with_suffix(".png"), format="png", dpi=PNG_DPI)
    drawn.files.extend(f"{path.name}.{kind}" for kind in ("svg", "png"))


def refuse_equal_colours(series: int) -> None:
    if series > len(COLOURS):
        raise Rejected(f"it has {series} series, and {len(COLOURS)} can be told apart")


def shortened(texts: Sequence[str], characters: int = SHOWN_CHARACTERS) -> list[str]:
    """Equal texts stay equal and different ones different."""
    short: dict[str, str] = {}
    for text in texts:
        name = textwrap.shorten(text, characters, placeholder="...")
        taken = set(short.values()) - {short.get(text)}
        number = 1
        while (label := name if number == 1 else f"{name} ({number})") in taken:
            number += 1
        short.setdefault(text, label)
    return [short[text] for text in texts]
