"""Accept or reject one image by absolute numbers, never relative to its batch mates."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from shared.specs import GateSpec


class Verdict(NamedTuple):
    """`reason` is None for an accepted image; `mean` and `std` are in grey levels, 0 to 255."""

    reason: str | None
    mean: float
    std: float


LEVELS = np.arange(256)
NOT_FINITE = "not finite"


def judge(image: Image.Image, gate: GateSpec, *, is_finite: bool) -> Verdict:
    """image is RGB, as it would be stored."""
    if not is_finite:
        return Verdict(NOT_FINITE, 0.0, 0.0)
    # Counting levels is several times as fast as two passes over the pixels in floating point, and exact.
    counts = np.reshape(image.histogram(), (3, 256)).sum(axis=0)
    shares = counts / counts.sum()
    exact_mean = float(shares @ LEVELS)
    mean, std = round(exact_mean, 3), round(math.sqrt(float(shares @ (LEVELS - exact_mean) ** 2)), 3)
    if mean < gate.min_mean:
        return Verdict("black", mean, std)
    if std < gate.min_std:
        return Verdict("blank", mean, std)
    return Verdict(None, mean, std)
