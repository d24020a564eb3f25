"""Accept or reject one image by absolute numbers, never relative to its batch mates."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.specs import GateSpec


class Verdict(NamedTuple):
    """`reason` is None for an accepted image; `mean` and `std` are in grey levels, 0 to 255."""

    reason: str | None
    mean: float
    std: float


def judge(image: NDArray[np.float32], gate: GateSpec) -> Verdict:
    """image (H, W, 3) in 0..1 as the pipeline returns it."""
    if not np.isfinite(image).all():
        return Verdict("not finite", 0.0, 0.0)
    mean, std = round(float(image.mean()) * 255, 3), round(float(image.std()) * 255, 3)
    if mean < gate.min_mean:
        return Verdict("black", mean, std)
    if std < gate.min_std:
        return Verdict("blank", mean, std)
    return Verdict(None, mean, std)
