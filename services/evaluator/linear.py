"""Several linear classifiers of the same features, side by side, so that each pass reads the features once."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from shared.errors import Rejected

# Called again and again during long work; raises to stop it.
Check = Callable[[], None]

CHUNK_ELEMENTS = 2**22  # logits held at a time: 16 MiB in float32


class Examples(NamedTuple):
    """features (N, D) float32 or float64; labels (N,) int64 from 0."""

    features: Tensor
    labels: Tensor


class Linear(NamedTuple):
    """weights (K, C, D), biases (K, C)."""

    weights: Tensor
    biases: Tensor


def never_stop() -> None:
    """The check of work that nobody stops."""


def predict(linear: Linear, features: Tensor) -> Tensor:
    """The class of each row by each classifier, (K, N) int64."""
    stacked = linear.weights.flatten(0, 1)
    with full_precision():
        parts = [(part @ stacked.T).unflatten(1, linear.biases.shape) for part in features.split(rows_at_once(stacked))]
    return torch.cat([(logits + linear.biases).argmax(dim=2).T for logits in parts], dim=1)


def rows_at_once(stacked: Tensor) -> int:
    return max(1, CHUNK_ELEMENTS // len(stacked))


def losses_and_residuals(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of (B, K, C) logits, summed over the batch in float64, (K,); its derivative by them, (B, K, C)."""
    index = labels[:, None, None].expand(-1, logits.shape[1], 1)
    scores = torch.log_softmax(logits, dim=2)
    losses = -scores.gather(2, index).sum(dim=(0, 2), dtype=torch.float64)
    return losses, scores.exp_().scatter_add_(2, index, -torch.ones_like(index, dtype=scores.dtype))


def check_examples(examples: Examples, classes: int) -> None:
    """Raises Rejected where features are not finite, or a label is not one of the classes."""
    features, labels = examples
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise Rejected(f"features {tuple(features.shape)} and labels {tuple(labels.shape)} are not (N, D) and (N,)")
    if not len(labels):
        raise Rejected("there are no training images; give some of at least two classes")
    broken = (~features.isfinite()).nonzero()
    if len(broken):
        row, column = broken[0].tolist()
        raise Rejected(
            f"feature {column} of image {row} is {features[row, column].item()}, and so are {len(broken) - 1} more "
            "of NaN or infinite value; the encoder that made them is broken or overflowed"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise Rejected(f"labels run from {low} to {high}; {classes} classes allow 0 to {classes - 1}")


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products without TF32, whose ten bits of mantissa stall a line search near 1e-4."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
