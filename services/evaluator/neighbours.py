"""Classification by the nearest training images."""

import torch
from torch import Tensor

from .linear import Check, Examples, check_examples, full_precision, never_stop
from .sgd_probe import normalise

CHUNK_SIMILARITIES = 2**24  # held at a time: 64 MiB in float32
TEMPERATURE = 0.07  # Wu et al. 2018


def predict_neighbours(
    bank: Examples, queries: Tensor, classes: int, *, k: int, temperature: float, check: Check = never_stop
) -> Tensor:
    """The class of each query (N, D) by a vote of its k nearest by cosine, each of weight exp(cosine / temperature).

    Wu et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination", section 3.4; they take
    k = 200 and temperature 0.07. A bank of fewer than k images votes as a whole. Returns (N,) int64.
    """
    check_examples(bank, classes)
    keys = normalise(bank.features)
    size = max(1, CHUNK_SIMILARITIES // len(keys))
    parts = []
    with full_precision():
        for part in queries.split(size):
            check()
            similarities = normalise(part) @ keys.T
            parts.append(vote(similarities, bank.labels, classes, k=min(k, len(keys)), temperature=temperature))
    return torch.cat(parts)


def vote(similarities: Tensor, labels: Tensor, classes: int, *, k: int, temperature: float) -> Tensor:
    """similarities (B, M), labels (M,)."""
    nearest, positions = similarities.topk(k, dim=1)
    # Less the largest, which changes no winner: exp(1 / temperature) would overflow below 0.012.
    weights = ((nearest - nearest[:, :1]) / temperature).exp()
    votes = similarities.new_zeros(len(similarities), classes)
    return votes.scatter_add_(1, labels[positions], weights).argmax(dim=1)
