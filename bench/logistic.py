"""Seconds to fit logistic regression on 20,000 made-up features of 1,024 dimensions, beside scikit-learn's lbfgs.

`python -m bench.logistic` fits one strength alone, in turns with scikit-learn, then ten at once beside ten fits of
scikit-learn. The features resemble a ResNet's: not negative, correlated, of very different spreads. Both sides get the
same float32 array and all cores. They stop by different rules, so SKLEARN_TOLERANCE is stricter than scikit-learn's
default, which ends 2.4e-5 nats higher; the objectives of both are computed here by the same code in float64.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from services.evaluator.linear import Linear, predict
from services.evaluator.logistic import fit_logistic

from .machine import versions, write_result

IMAGES, WIDTH, CLASSES = 20_000, 1024, 50
SINGLE = 0.1
SWEEP = tuple(float(strength) for strength in np.logspace(-4, 0, 10))
ROUNDS = 3
OUR_TOLERANCE = 1e-8  # nats expected above the minimum: the default
SKLEARN_TOLERANCE = 1e-5  # largest component of the gradient
LARGEST_EXCESS = 1e-6  # nats by which our objectives may lie above scikit-learn's
LEAST_SINGLE, LEAST_SWEEP = 1.5, 4.0
PACKAGES = ("torch", "scikit-learn", "scipy", "numpy")


Fit = Callable[[Tensor, Tensor, tuple[float, ...]], Linear]


class Run(NamedTuple):
    seconds: float
    objectives: list[float]
    linear: Linear


def resnet_like() -> tuple[Tensor, Tensor]:
    """features (IMAGES, WIDTH) float32, labels (IMAGES,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator)
    centres = 0.35 * torch.randn(CLASSES, 64, generator=generator)
    hidden = centres[labels] + torch.randn(IMAGES, 64, generator=generator)
    mixed = hidden @ torch.randn(64, WIDTH, generator=generator) / 8
    noisy = mixed + 0.3 * torch.randn(IMAGES, WIDTH, generator=generator) - 0.3
    return F.relu(noisy) * 0.4 * (0.7 * torch.randn(WIDTH, generator=generator)).exp(), labels


def fit_ours(features: Tensor, labels: Tensor, strengths: tuple[float, ...]) -> Linear:
    fitted = fit_logistic(features, labels, strengths, CLASSES, tolerance=OUR_TOLERANCE)
    assert bool(fitted.converged.all())
    return Linear(fitted.weights, fitted.biases)


def fit_sklearn(features: Tensor, labels: Tensor, strengths: tuple[float, ...]) -> Linear:
    models = [LogisticRegression(C=strength, max_iter=2000, tol=SKLEARN_TOLERANCE) for strength in strengths]
    for model in models:
        model.fit(features.numpy(), labels.numpy())
    weights = torch.stack([torch.from_numpy(model.coef_) for model in models])
    return Linear(weights, torch.stack([torch.from_numpy(model.intercept_) for model in models]))


def timed(fit: Fit, features: Tensor, labels: Tensor, strengths: tuple[float, ...]) -> Run:
    started = time.perf_counter()
    linear = fit(features, labels, strengths)
    seconds = time.perf_counter() - started
    return Run(seconds, objectives(linear, features, labels, strengths), linear)


def objectives(linear: Linear, features: Tensor, labels: Tensor, strengths: tuple[float, ...]) -> list[float]:
    """scikit-learn's objective divided by C * N."""
    found = []
    for weights, biases, strength in zip(linear.weights.double(), linear.biases.double(), strengths, strict=True):
        loss = F.cross_entropy(features.double() @ weights.T + biases, labels)
        found.append(float(loss + weights.square().sum() / (2 * strength * len(labels))))
    return found


class Comparison(NamedTuple):
    """`difference` is the largest of the objectives', in nats; `above` the largest by which ours is the higher one."""

    ours: Run
    theirs: Run
    ratio: float
    difference: float
    above: float
    agreement: float

    def facts(self) -> dict[str, object]:
        return {
            "seconds": {"ours": round(self.ours.seconds, 2), "scikit-learn": round(self.theirs.seconds, 2)},
            "ratio": round(self.ratio, 2),
            "objectives": {"ours": self.ours.objectives, "scikit-learn": self.theirs.objectives},
            "predictions_agree": round(self.agreement, 5),
        }


def compare(features: Tensor, labels: Tensor, strengths: tuple[float, ...]) -> Comparison:
    ours, theirs = (timed(fit, features, labels, strengths) for fit in (fit_ours, fit_sklearn))
    above = [our - their for our, their in zip(ours.objectives, theirs.objectives, strict=True)]
    agree = (predict(ours.linear, features) == predict(theirs.linear, features)).double().mean()
    found = Comparison(ours, theirs, theirs.seconds / ours.seconds, max(map(abs, above)), max(above), float(agree))
    print(
        f"{len(strengths):2} strengths: ours {ours.seconds:7.2f} s   scikit-learn {theirs.seconds:7.2f} s   "
        f"ratio {found.ratio:5.2f}   objectives differ by {found.difference:.1e} (ours higher by {found.above:.1e})   "
        f"predictions agree {found.agreement:.3%}",
        flush=True,
    )
    return found


def main() -> None:
    features, labels = resnet_like()
    print(f"{IMAGES:,} x {WIDTH:,}, {CLASSES} classes; {versions(PACKAGES)}; load {os.getloadavg()[0]:.1f}", flush=True)
    singles = [compare(features, labels, (SINGLE,)) for _ in range(ROUNDS)]
    sweep = compare(features, labels, SWEEP)
    ratio = statistics.median(single.ratio for single in singles)
    print(
        f"median of one strength {ratio:.2f} (at least {LEAST_SINGLE}), ten {sweep.ratio:.2f} (at least {LEAST_SWEEP})"
    )
    facts = {
        "images": IMAGES,
        "width": WIDTH,
        "classes": CLASSES,
        "tolerance": {"ours": OUR_TOLERANCE, "scikit-learn": SKLEARN_TOLERANCE},
        "single": {"strength": SINGLE, "median_ratio": round(ratio, 2), "rounds": [each.facts() for each in singles]},
        "sweep": {"strengths": SWEEP, **sweep.facts()},
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }
    write_result("logistic", facts, PACKAGES)
    above = max(each.above for each in (*singles, sweep))
    if ratio < LEAST_SINGLE or sweep.ratio < LEAST_SWEEP or above > LARGEST_EXCESS:
        sys.exit(1)


if __name__ == "__main__":
    main()
