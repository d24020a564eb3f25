"""The two figures of an experiment: prompts and guidance scales, and sizes, each beside the real images."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from shared.experiments import write_scale

from .bars import Bar, Curve, Series, Size
from .experiment_report import Row, Score
from .figure_files import Drawn, draw, refuse_equal_colours, shortened
from .figures import grouped, traced


def draw_figures(rows: Sequence[Row], benchmark: str, folder: Path, *, suffix: str) -> Drawn:
    """Of the networks that one recipe trained; each figure as SVG and PNG."""
    drawn = Drawn([], [])
    draw(drawn, folder / f"prompts{suffix}", lambda: prompts_figure(rows, benchmark))
    draw(drawn, folder / f"sizes{suffix}", lambda: sizes_figure(rows, benchmark))
    return drawn


def prompts_figure(rows: Sequence[Row], benchmark: str) -> Figure | None:
    """None where nothing was drawn by a prompt."""
    series = prompt_series(rows, benchmark)
    if not series:
        return None
    real = real_bars(rows, benchmark)
    shown = [*series, *([Series("real images", tuple(real))] if real else [])]
    refuse_equal_colours(len(shown))
    return grouped(shown, legend_title="guidance")


def sizes_figure(rows: Sequence[Row], benchmark: str) -> Figure | None:
    """None where nothing was drawn in several sizes."""
    curves, real = size_curves(rows, benchmark), real_bars(rows, benchmark)
    if not curves:
        return None
    refuse_equal_colours(len(curves))
    return traced(curves, real[0] if real else None)


def prompt_series(rows: Sequence[Row], benchmark: str) -> list[Series]:
    """One per guidance scale, of the datasets of that size which most of them have."""
    drawn = [row for row in rows if row.real is None]
    if not drawn:
        return []
    amount = Counter(row.amount for row in drawn).most_common(1)[0][0]
    chosen = [row for row in drawn if row.amount == amount]
    names = prompt_names(chosen)
    scales = sorted({row.guidance for row in chosen if row.guidance is not None})
    return [
        Series(
            write_scale(scale),
            tuple(
                bar
                for row, name in zip(chosen, names, strict=True)
                if row.guidance == scale
                for bar in bars_of(row, name, benchmark)
            ),
        )
        for scale in scales
    ]


def prompt_names(rows: Sequence[Row]) -> list[str]:
    """Short, and different for rows of one guidance scale."""
    vary_model, vary_steps = len({row.model for row in rows}) > 1, len({row.sampler_steps for row in rows}) > 1
    vary_approximation = len({row.approximation for row in rows}) > 1
    full = [
        ", ".join(
            [
                row.prompt or "",
                *([row.model or "default model"] if vary_model else []),
                *([f"{row.sampler_steps or 'default'} steps"] if vary_steps else []),
                *([row.approximation or "exact"] if vary_approximation else []),
            ]
        )
        for row in rows
    ]
    return shortened(full)


def size_curves(rows: Sequence[Row], benchmark: str) -> list[Curve]:
    """One per recipe of images that was drawn in several sizes."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.real is None and row.guidance is not None:
            words = [row.prompt or "", f"guidance {write_scale(row.guidance)}", row.model or ""]
            words += [f"{row.sampler_steps} steps"] if row.sampler_steps else []
            words += [row.approximation or ""]
            groups.setdefault(", ".join(word for word in words if word), []).append(row)
    several = {name: group for name, group in groups.items() if len({row.amount for row in group}) > 1}
    return [
        Curve(name, tuple(points(group, name, benchmark)))
        for name, group in zip(shortened(list(several)), several.values(), strict=True)
    ]


def points(rows: Sequence[Row], name: str, benchmark: str) -> Iterator[Size]:
    for row in rows:
        if row.times is not None:
            yield from (Size(row.times, bar) for bar in bars_of(row, name, benchmark))


def real_bars(rows: Sequence[Row], benchmark: str) -> list[Bar]:
    return [bar for row in rows if row.real for bar in bars_of(row, f"real: {row.real}", benchmark)]


def bars_of(row: Row, name: str, benchmark: str) -> Iterator[Bar]:
    """The measured one, and the published one where there is one."""
    known = score_of(row, benchmark)
    if known is None:
        return
    yield Bar(name, known.mean, *known.interval, is_published=False)
    if known.published is not None:
        yield Bar(name, known.published, None, None, is_published=True)


def score_of(row: Row, benchmark: str) -> Score | None:
    return next((known for known in row.scores if known.benchmark == benchmark), None)
