"""A linear layer trained by stochastic gradient descent, for sets too large for L-BFGS."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import Check, Examples, Linear, check_examples, full_precision, losses_and_residuals, never_stop

MOMENTUM = 0.9
BATCH_SIZE = 1024
EPOCHS = 100


class Step(NamedTuple):
    """The learning rate at the start of the cosine, and the weight decay, which biases do not have."""

    learning_rate: float
    weight_decay: float


def normalise(features: Tensor) -> Tensor:
    """Each row to length one; the probe is trained and asked on such rows."""
    return F.normalize(features, dim=1)


def fit_sgd(
    examples: Examples,
    steps: Sequence[Step],
    classes: int,
    *,
    seed: int,
    epochs: int = EPOCHS,
    check: Check = never_stop,
) -> Linear:
    """One layer per entry of `steps`, all from zero weights and over the same batches.

    The features should be normalised. Momentum and decay are coupled as in torch.optim.SGD; the rate falls to zero
    along half a cosine, step by step (Loshchilov and Hutter 2017, equation 5, without restarts). `check` is called
    before every batch, and may raise to stop. Raises Rejected for features that are not finite.
    """
    check_examples(examples, classes)
    features, labels = examples
    rates, decays = features.new_tensor(steps).T[:, :, None, None]  # (K, 1, 1) each
    weights = features.new_zeros(len(steps), classes, features.shape[1])
    biases = features.new_zeros(len(steps), classes, 1)
    velocities = torch.zeros_like(weights), torch.zeros_like(biases)
    batches_per_epoch = math.ceil(len(labels) / BATCH_SIZE)
    with full_precision():
        for number, batch in enumerate(batches(len(labels), epochs, seed)):
            check()
            rate = rates * (1 + math.cos(math.pi * number / (epochs * batches_per_epoch))) / 2
            rows = batch.to(labels.device)
            by_weights, by_biases = gradients(Examples(features[rows], labels[rows]), weights, biases)
            weights -= rate * velocities[0].mul_(MOMENTUM).add_(by_weights + decays * weights)
            biases -= rate * velocities[1].mul_(MOMENTUM).add_(by_biases)
    return Linear(weights, biases[:, :, 0])


def batches(count: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Positions of each batch, newly shuffled every epoch; the last of an epoch may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator).split(BATCH_SIZE)


def gradients(batch: Examples, weights: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
    """Of the mean loss, by weights (K, C, D) and by biases (K, C, 1)."""
    logits = (batch.features @ weights.flatten(0, 1).T).unflatten(1, weights.shape[:2]) + biases[:, :, 0]
    residuals = losses_and_residuals(logits, batch.labels)[1] / len(batch.labels)
    return (residuals.flatten(1).T @ batch.features).view_as(weights), residuals.sum(dim=0)[:, :, None]
