"""What is counted on a benchmark."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

NORMAL_95 = 1.959963984540054  # two-sided 95 % quantile of the standard normal distribution


class Interval(NamedTuple):
    low: float
    high: float


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> int:
    """Images whose label is among the k largest of (N, C) logits."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices  # (N, k)
    return int((best == labels[:, None]).any(dim=1).sum())


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(C, C) int64: rows are true classes, columns predicted ones."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def wilson_interval(hits: int, total: int) -> Interval:
    """95 % score interval of a proportion (Wilson 1927); unlike the normal one it never leaves 0 to 1."""
    share, weight = hits / total, NORMAL_95**2 / total
    centre = (share + weight / 2) / (1 + weight)
    half = NORMAL_95 / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))
