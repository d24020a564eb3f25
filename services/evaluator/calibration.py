"""Whether a network's confidence is how often it is right."""

from typing import NamedTuple

import torch
from torch import Tensor

from shared.errors import Rejected

BINS = 15  # Guo et al. 2017, table 1


class Bin(NamedTuple):
    """Images whose confidence lies in (low, high]; both means are None where there are none."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


class Calibration(NamedTuple):
    """`error` is the expected calibration error, 0 to 1; `bins` the table of the reliability diagram."""

    error: float
    bins: tuple[Bin, ...]


def calibration(logits: Tensor, labels: Tensor) -> Calibration:
    """Expected calibration error in equal-width bins (Guo et al. 2017, section 2).

    logits (N, C), where -inf masks a class; labels (N,). Raises Rejected for no images and for logits that are NaN.
    """
    confidence, predicted = sound(logits).double().softmax(dim=1).max(dim=1)
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=logits.device)
    # Not right=True: a confidence on an edge belongs to the bin below it, and 1 to the last one.
    places = torch.bucketize(confidence, edges[1:])
    images = torch.bincount(places, minlength=BINS)
    confidences = torch.bincount(places, weights=confidence, minlength=BINS)
    hits = torch.bincount(places, weights=(predicted == labels).double(), minlength=BINS)
    error = float((hits - confidences).abs().sum()) / len(labels)
    rows = zip(
        edges[:-1].tolist(), edges[1:].tolist(), images.tolist(), confidences.tolist(), hits.tolist(), strict=True
    )
    return Calibration(error, tuple(reliability(*row) for row in rows))


def reliability(low: float, high: float, images: int, confidences: float, hits: float) -> Bin:
    return Bin(low, high, images, confidences / images if images else None, hits / images if images else None)


def sound(logits: Tensor) -> Tensor:
    if not len(logits):
        raise Rejected("calibration needs at least one image, there is none")
    is_nan = logits.isnan().any(dim=1)
    if is_nan.any():
        raise Rejected(f"the logits of image {int(is_nan.nonzero()[0])} are not numbers")
    return logits
