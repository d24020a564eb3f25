"""Which of several models is better, given that all were tested on the same images."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared.errors import Rejected

RESAMPLES = 10_000
ENDS_95 = (0.025, 0.975)
DRAWN_AT_ONCE = 2**22  # counts; 32 MiB


class ModelAccuracy(NamedTuple):
    """`low` and `high` are the 95 % percentile interval over the resamples."""

    name: str
    top1: float
    low: float
    high: float


class Difference(NamedTuple):
    """Top-1 of `first` less that of `second`; `share_not_better` is the share of resamples where it is not above 0."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    share_not_better: float


class Comparison(NamedTuple):
    images: int
    resamples: int
    seed: int
    models: tuple[ModelAccuracy, ...]
    differences: tuple[Difference, ...]


class Spread(NamedTuple):
    """Over the seeds of one setting; the deviation is the sample's (n - 1), None for a single seed."""

    mean: float
    deviation: float | None
    seeds: int


def compare_models(hits: Mapping[str, npt.NDArray[np.bool_]], *, seed: int) -> Comparison:
    """Paired bootstrap over images (Efron and Tibshirani 1993, chapter 13: percentile intervals), every pair of models.

    hits holds (N,) for each model: whether it named image i rightly, the images in one order for all. Raises Rejected
    for fewer than two models, no images, or models tested on different numbers of them.
    """
    table = hit_table(hits)
    resampled = resampled_hits(table, seed=seed)  # (RESAMPLES, models)
    counted = dict(zip(hits, zip(table.sum(axis=0).tolist(), resampled.T, strict=True), strict=True))
    images = len(table)
    models = (ModelAccuracy(name, count / images, *interval(drawn, images)) for name, (count, drawn) in counted.items())
    differences = (
        Difference(
            first,
            second,
            (counted[first][0] - counted[second][0]) / images,
            *interval(counted[first][1] - counted[second][1], images),
            share_not_better=float(np.mean(counted[first][1] <= counted[second][1])),
        )
        for first, second in itertools.combinations(hits, 2)
    )
    return Comparison(images, RESAMPLES, seed, tuple(models), tuple(differences))


def hit_table(hits: Mapping[str, npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    """(N, models)."""
    if len(hits) < 2:
        raise Rejected(f"a comparison needs at least two models, there is {', '.join(hits) or 'none'}")
    sizes = {name: len(each) for name, each in hits.items()}
    if len(set(sizes.values())) > 1 or not max(sizes.values()):
        counts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise Rejected(f"a comparison needs the same images for every model; images tested: {counts}")
    return np.stack(list(hits.values()), axis=1)


def resampled_hits(table: npt.NDArray[np.bool_], *, seed: int) -> npt.NDArray[np.int64]:
    """Hits (RESAMPLES, models) of N images drawn with replacement.

    Images that the same models name rightly are alike, so a resample is one multinomial draw over these few kinds in
    place of N images, with exactly the same distribution.
    """
    kinds, images = np.unique(table, axis=0, return_counts=True)  # (K, models), (K,)
    generator = np.random.default_rng(seed)
    rows = max(1, DRAWN_AT_ONCE // len(kinds))
    sizes = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    weights = kinds.astype(np.int64)
    return np.concatenate([generator.multinomial(len(table), images / len(table), size) @ weights for size in sizes])


def interval(resampled: npt.NDArray[np.int64], images: int) -> tuple[float, float]:
    low, high = np.quantile(resampled / images, ENDS_95)
    return float(low), float(high)


def spread_over_seeds(values: Sequence[float]) -> Spread:
    if not values:
        raise Rejected("a mean over seeds needs at least one value, there is none")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))
