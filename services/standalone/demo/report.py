"""The demo's numbers, and the sentences that follow from them."""

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

WHAT_IT_IS = (
    "digits-sd was distilled from 1,257 labelled real digits of the same source as the test images. "
    "The demo therefore shows the chain (draw, train, test) and the effect of the guidance scale, "
    "not learning from class names alone, and says nothing about ImageNet or Stable Diffusion."
)

NORMAL_95 = 1.96


class Row(BaseModel):
    """One bar: the same network trained on one kind of images; `top1` in per cent, one value per seed."""

    model_config = ConfigDict(frozen=True)

    train: str
    guidance: float | None
    images: int
    top1: tuple[float, ...]
    top1_mean: float
    top1_sd: float
    n_test: int


class Report(BaseModel):
    model_config = ConfigDict(frozen=True)

    rows: tuple[Row, ...]
    setup: str
    seconds: dict[str, float]
    machine: str
    versions: dict[str, str]
    findings: tuple[str, ...]
    note: str = WHAT_IT_IS


def row(train: str, guidance: float | None, *, images: int, top1: Sequence[float], n_test: int) -> Row:
    spread = statistics.stdev(top1) if len(top1) > 1 else 0.0
    return Row(
        train=train,
        guidance=guidance,
        images=images,
        top1=tuple(top1),
        top1_mean=statistics.fmean(top1),
        top1_sd=spread,
        n_test=n_test,
    )


def findings(rows: Sequence[Row]) -> tuple[str, ...]:
    """Every synthetic row compared with the best synthetic one, and that one with the real images."""
    real = [known for known in rows if known.guidance is None]
    synthetic = sorted((known for known in rows if known.guidance is not None), key=lambda known: -known.top1_mean)
    pairs = [(synthetic[0], other) for other in synthetic[1:]] + [(known, synthetic[0]) for known in real]
    return tuple(compared(*sorted(pair, key=lambda known: -known.top1_mean)) for pair in pairs)


def compared(better: Row, worse: Row) -> str:
    difference, margin = better.top1_mean - worse.top1_mean, margin_points(better, worse)
    values = f"{better.top1_mean:.1f} % against {worse.top1_mean:.1f} %, {difference:.1f} points apart"
    if difference <= margin:
        return f"{better.train} and {worse.train}: {values}, within the 95 % margin of {margin:.1f}; no conclusion."
    return f"{better.train} gave more than {worse.train}: {values}, beyond the 95 % margin of {margin:.1f}."


def margin_points(one: Row, other: Row) -> float:
    """95 % margin of a difference of two means, taking the tests as independent: they share images, so it is wide."""
    return NORMAL_95 * math.sqrt(variance(one) + variance(other))


def variance(known: Row) -> float:
    """Of a mean over seeds, in points squared: more seeds average out the training, never the choice of test images."""
    share = known.top1_mean / 100
    return 100**2 * share * (1 - share) / known.n_test + known.top1_sd**2 / len(known.top1)


def markdown(report: Report) -> str:
    lines = ["# Demo: digits from a built-in model, against real digits", "", report.note, "", report.setup, ""]
    lines += ["| trained on | images | top-1 (%) | sd over seeds | test images |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {known.train} | {known.images} | {known.top1_mean:.1f} | {known.top1_sd:.1f} | {known.n_test} |"
        for known in report.rows
    ]
    lines += ["", *(f"* {sentence}" for sentence in report.findings), ""]
    lines += ["![top-1 per training set](figure.png)", "", "![samples](samples.png)", ""]
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.seconds.items())
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines += [f"Time: {spent} (they overlap).", f"Machine: {report.machine}.", f"Versions: {versions}."]
    return "\n".join(lines) + "\n"
