"""The error of a network as a power of the number of its training images, and how far that can be trusted.

Learning curves as power laws: Cortes et al. 1993; of deep networks, Rosenfeld et al. 2020. Both add an error that no
amount of data removes; three sizes cannot tell that from the slope, so it is left out and a prediction far beyond the
sizes seen errs on the side of too much accuracy.
"""

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import fdtrc, stdtrit  # type: ignore[import-untyped]  # scipy ships no types

UPPER_95 = 0.975  # both tails together leave 5 %
# Sums of squared differences of logarithms: of equal errors the machine's rounding leaves 1e-29, and one test image in
# a million makes 1e-12.
ROUNDING = 1e-20


class PowerLaw(NamedTuple):
    """log error = intercept + slope * log images, with residuals of this standard `deviation`.

    `centre` is the mean and `spread` the sum of squared distances from it of the logarithms seen.
    """

    intercept: float
    slope: float
    deviation: float
    points: int
    centre: float
    spread: float


class Error(NamedTuple):
    """`low` to `high` holds the error of one new network in at least 95 of 100 cases, if the law holds."""

    expected: float
    low: float
    high: float


def smoothed_error(wrong: int, tested: int) -> float:
    """Above 0 also where nothing was wrong, as a logarithm needs it."""
    return (wrong + 0.5) / (tested + 1)


def fit_power_law(images: Sequence[int], errors: Sequence[float]) -> PowerLaw:
    """Least squares between the logarithms; needs three points of two sizes."""
    x, y = np.log(np.array(images, dtype=np.float64)), np.log(np.array(errors, dtype=np.float64))
    away = x - x.mean()
    spread = float((away**2).sum())
    slope = float((away * y).sum()) / spread
    intercept = float(y.mean()) - slope * float(x.mean())
    residuals = y - intercept - slope * x
    deviation = math.sqrt(float((residuals**2).sum()) / (len(x) - 2))
    return PowerLaw(intercept, slope, deviation, len(x), float(x.mean()), spread)


def lack_of_fit(images: Sequence[int], errors: Sequence[float]) -> float | None:
    """How likely the sizes would lie so far from the law by chance, given how networks of one size differ: the F test
    for lack of fit (Fisher 1922). None with one network of each size, or without a third size.

    Where all networks of one size erred alike, any distance is no chance: 0, or 1 where there is none."""
    found: dict[int, list[float]] = {}
    for count, error in zip(images, errors, strict=True):
        found.setdefault(count, []).append(math.log(error))
    within = sum(float(np.var(logs)) * len(logs) for logs in found.values())
    free_within, free_between = len(images) - len(found), len(found) - 2
    if free_within < 1 or free_between < 1:
        return None
    law = fit_power_law(images, errors)
    between = law.deviation**2 * (law.points - 2) - within
    if within < ROUNDING:
        return 0.0 if between > ROUNDING else 1.0
    return float(fdtrc(free_between, free_within, max(0.0, between) / free_between / (within / free_within)))


def predict_error(law: PowerLaw, images: int, *, tested: int) -> Error:
    """Of one more network, trained on so many images and tested on `tested`: a prediction interval by Student's t.

    Its width has the scatter between networks in it, the doubt about the line, which grows with the distance from the
    sizes seen, and the binomial scatter of the few wrong images at the predicted error: a logarithm scatters more there
    than at the sizes seen. A part of that is in the networks' scatter already, so the interval is rather too wide.
    """
    place = math.log(images)
    expected = law.intercept + law.slope * place
    doubt = math.sqrt(1 + 1 / law.points + (place - law.centre) ** 2 / law.spread)
    half = float(stdtrit(law.points - 2, UPPER_95)) * math.hypot(law.deviation * doubt, log_scatter(expected, tested))
    # No more than everything can be wrong.
    return Error(*(math.exp(min(0.0, log)) for log in (expected, expected - half, expected + half)))


def log_scatter(expected: float, tested: int) -> float:
    """Standard deviation of the logarithm of a share of `tested` images, binomial, to first order about `expected`."""
    share = min(1.0, max(math.exp(expected), sys.float_info.min))  # an exponential may round to 0
    return math.sqrt((1 - share) / (share * tested))
