"""Small training sets for linear probes."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from services.evaluator.linear import Examples

TRAINING = 1257


def digits() -> tuple[Examples, Examples]:
    """The 64 grey levels of scikit-learn's digits: the training part and the test part, float32."""
    source = load_digits()
    features, labels = torch.from_numpy(source.data).float(), torch.from_numpy(source.target)
    return Examples(features[:TRAINING], labels[:TRAINING]), Examples(features[TRAINING:], labels[TRAINING:])


def clouds(count: int, width: int, classes: int, *, apart: float, dtype: torch.dtype = torch.float64) -> Examples:
    """A cloud of variance 1 for each class, far from the origin and twenty times wider along one axis than another."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = apart * torch.randn(classes, width, generator=generator)
    points = centres[labels] + torch.randn(count, width, generator=generator)
    return Examples(((points + 3) * spreads(width)).to(dtype), labels)


def spreads(width: int) -> Tensor:
    return torch.linspace(0.1, 2, width)
