"""Multinomial logistic regression for many regularisation strengths at once.

The objective is scikit-learn's, C * (sum of losses) + |W|^2 / 2 with a free intercept, here divided by C * N: the mean
loss in nats plus |W|^2 / (2 C N), which can be compared between strengths. It is always multinomial: with two classes
the minimum at C is that of scikit-learn's binomial model at 2C, because both classes have weights here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shared.errors import Rejected

from .lbfgs import Evaluated, minimise
from .linear import (
    Check,
    Examples,
    Linear,
    check_examples,
    full_precision,
    losses_and_residuals,
    never_stop,
    rows_at_once,
)

ROWS_AT_ONCE = 2**14
ALIGNMENT = 8  # columns; GPUs multiply slowly where rows start at odd addresses
# Axes of less than this share of the largest variance are aimed at as if they had it. Without a floor a separable set
# takes several times the iterations (digits, C = 100: 477 instead of 91), with 0.1 a noisy one does.
LEAST_VARIANCE = 0.01


class Problem(NamedTuple):
    """What every strength shares.

    design (N, Q): the features less their mean, turned to their principal axes, then a column of ones for the
    intercept, then zeros up to ALIGNMENT. curvatures (Q,) are the mean squares of its columns, see LEAST_VARIANCE.
    rotation (D, D) and mean (D,) lead back. labels (N,) are positions in `present` (P,), the classes that occur.
    """

    examples: Examples
    design: Tensor
    curvatures: Tensor
    rotation: Tensor
    mean: Tensor
    labels: Tensor
    present: Tensor
    classes: int


class Fitted(NamedTuple):
    """A row per strength: weights (K, C, D), biases (K, C), objectives (K,) float64, iterations (K,), converged (K,).

    A class without examples has weights of zero and a bias of minus infinity. Objectives are those of the returned
    weights on the given features, computed in float64.
    """

    weights: Tensor
    biases: Tensor
    objectives: Tensor
    iterations: Tensor
    converged: Tensor


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    strengths: Sequence[float],
    classes: int,
    *,
    max_iterations: int = 2000,
    tolerance: float = 1e-8,
) -> Fitted:
    """features (N, D) float32 or float64, labels (N,) int64 below `classes`; computed in their type, on their device.

    A fit has converged when its objective is expected to be within `tolerance` nats of the minimum. Fits at several
    strengths equal each fit alone but for rounding. Raises Rejected for features that are not finite.
    """
    problem = prepare(Examples(features, labels), classes)
    return fit(problem, strengths, max_iterations=max_iterations, tolerance=tolerance)


def prepare(examples: Examples, classes: int) -> Problem:
    """The part of the work that does not depend on the strength; keeps a second copy of the features.

    Neither centring nor turning moves the minimum: the intercept is free and the penalty is the same along any
    orthogonal axes. Along the principal ones the Hessian is nearly diagonal, and L-BFGS can be told that diagonal.
    """
    check_examples(examples, classes)
    features, labels = examples
    present, positions = labels.unique(return_inverse=True)
    if len(present) < 2:
        raise Rejected(f"all {len(labels)} training images are of class {int(present[0])}; give at least two classes")
    mean = features.mean(dim=0, dtype=torch.float64).to(features.dtype)
    width = len(mean)
    with full_precision():
        variances, axes = torch.linalg.eigh(covariance(features, mean))
        rotation = axes.to(features.dtype)
        design = turned(features, mean, rotation)
    curvatures = torch.ones(design.shape[1], dtype=torch.float64, device=features.device)
    curvatures[:width] = variances.clamp(min=LEAST_VARIANCE * float(variances[-1]))
    return Problem(examples, design, curvatures, rotation, mean, positions, present, classes)


def covariance(features: Tensor, mean: Tensor) -> Tensor:
    """(D, D) float64."""
    total = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for part in features.split(ROWS_AT_ONCE):
        total += (part - mean).T @ (part - mean)
    return total / len(features)


def turned(features: Tensor, mean: Tensor, rotation: Tensor) -> Tensor:
    width = len(mean)
    design = features.new_zeros(len(features), -(-(width + 1) // ALIGNMENT) * ALIGNMENT)
    for part, rows in zip(features.split(ROWS_AT_ONCE), design.split(ROWS_AT_ONCE), strict=True):
        rows[:, :width] = (part - mean) @ rotation
    design[:, width] = 1
    return design


def fit(
    problem: Problem,
    strengths: Sequence[float],
    *,
    max_iterations: int = 2000,
    tolerance: float = 1e-8,
    check: Check = never_stop,
) -> Fitted:
    """fit_logistic on a prepared problem; `check` is called before every round of L-BFGS, and may raise to stop."""
    penalties = penalty_factors(problem, strengths)
    shape = (len(strengths), len(problem.present), problem.design.shape[1])
    # The Hessian's diagonal at zero weights, but for a factor that L-BFGS finds by itself.
    diagonal = problem.curvatures / shape[1] + penalties
    scales = (1 / diagonal).to(problem.design.dtype)[:, None].expand(shape).flatten(1)

    def functions(rows: Tensor, points: Tensor) -> Evaluated:
        return evaluate(problem, points.unflatten(1, shape[1:]), penalties[rows])

    with full_precision():
        start = torch.zeros_like(scales)
        minima = minimise(functions, start, scales, max_iterations=max_iterations, tolerance=tolerance, check=check)
        present = turned_back(problem, minima.points.view(shape))
        objectives = exact_objectives(problem, present, strengths)
    linear = with_absent_classes(problem, present)
    return Fitted(*linear, objectives, minima.iterations, minima.converged)


def penalty_factors(problem: Problem, strengths: Sequence[float]) -> Tensor:
    """(K, Q) float64: 1 / (C N) for weights, 0 for the intercept."""
    if not all(0 < strength < float("inf") for strength in strengths):
        raise Rejected(f"regularisation strengths {list(strengths)} must all be positive and finite")
    count, columns = problem.design.shape
    inverse = torch.tensor(strengths, dtype=torch.float64, device=problem.design.device)
    factors = (1 / (inverse * count))[:, None].repeat(1, columns)
    factors[:, len(problem.mean)] = 0
    return factors


def evaluate(problem: Problem, stacked: Tensor, penalties: Tensor) -> Evaluated:
    """stacked (A, P, Q), penalties (A, Q)."""
    flat = stacked.flatten(0, 1)
    losses = torch.zeros(len(stacked), dtype=torch.float64, device=flat.device)
    gradients = torch.zeros_like(flat)
    size = rows_at_once(flat)
    for part, labels in zip(problem.design.split(size), problem.labels.split(size), strict=True):
        logits = (part @ flat.T).unflatten(1, stacked.shape[:2])
        part_losses, residuals = losses_and_residuals(logits, labels)
        losses += part_losses
        gradients.addmm_(residuals.flatten(1).T, part)
    weighted = penalties[:, None] * stacked
    values = losses / len(problem.design) + (weighted * stacked).sum(dim=(1, 2)) / 2
    gradients = gradients.view_as(stacked) / len(problem.design) + weighted.to(flat.dtype)
    return Evaluated(values, gradients.flatten(1))


def turned_back(problem: Problem, stacked: Tensor) -> Linear:
    width = len(problem.mean)
    weights = stacked[..., :width] @ problem.rotation.T
    return Linear(weights, stacked[..., width] - weights @ problem.mean)


def exact_objectives(problem: Problem, linear: Linear, strengths: Sequence[float]) -> Tensor:
    """In float64 from the features themselves: shows what turning and single precision cost."""
    weights, biases = linear.weights.double(), linear.biases.double()
    stacked = weights.flatten(0, 1)
    losses = torch.zeros(len(strengths), dtype=torch.float64, device=weights.device)
    size = rows_at_once(stacked)
    for part, labels in zip(problem.examples.features.split(size), problem.labels.split(size), strict=True):
        logits = (part.double() @ stacked.T).unflatten(1, biases.shape) + biases
        losses += losses_and_residuals(logits, labels)[0]
    halved = 2 * torch.tensor(strengths, dtype=torch.float64, device=weights.device)
    return (losses + weights.square().sum(dim=(1, 2)) / halved) / len(problem.labels)


def with_absent_classes(problem: Problem, present: Linear) -> Linear:
    count, _, width = present.weights.shape
    weights = present.weights.new_zeros(count, problem.classes, width)
    biases = present.biases.new_full((count, problem.classes), -torch.inf)
    weights[:, problem.present], biases[:, problem.present] = present
    return Linear(weights, biases)
