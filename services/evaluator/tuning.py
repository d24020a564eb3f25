"""Linear probes whose settings are chosen on a part of the training images, and which read the test images once.

Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) proposes the settings. It is asked for several at a
time, because classifiers side by side cost little more than one; to those not yet answered it gives the worst score
seen ("constant liar", Ginsbourger et al. 2010), so that it does not propose the same settings again.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple

import optuna
import torch
from optuna.samplers import TPESampler
from optuna.trial import Trial
from torch import Tensor

from shared.errors import Rejected

from .linear import Check, Examples, Linear, check_examples, predict
from .logistic import fit, prepare
from .metrics import confusion_matrix
from .sgd_probe import Step, fit_sgd, normalise

TRIALS = 30
TRIALS_AT_ONCE = 5
HELD_OUT = 0.2

Settings = dict[str, float]
# One classifier per entry, from examples that were given before.
Fit = Callable[[Sequence[Settings]], Linear]

logger = logging.getLogger(__name__)


class Probe(NamedTuple):
    """A kind of classifier: what it makes of features, what it lets be tuned, how it is fitted.

    `fitter` takes examples, the number of classes, a seed and a check, and does there what all settings share.
    """

    transform: Callable[[Tensor], Tensor]
    suggest: Callable[[Trial], Settings]
    fitter: Callable[[Examples, int, int, Check], Fit]


class Chosen(NamedTuple):
    """What one seed led to before any test image was read; `validation_top1` is of the part held out."""

    seed: int
    settings: Settings
    validation_top1: float
    linear: Linear


class Score(NamedTuple):
    """Shares of 1; `mean_per_class` is over the classes that have test images."""

    seed: int
    settings: Settings
    validation_top1: float
    top1: float
    mean_per_class: float


class Spread(NamedTuple):
    """Over seeds; the deviation is the sample's, 0 for a single seed."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class ProbeResult:
    scores: tuple[Score, ...]

    @property
    def top1(self) -> Spread:
        return spread([score.top1 for score in self.scores])

    @property
    def mean_per_class(self) -> Spread:
        return spread([score.mean_per_class for score in self.scores])


def suggest_strength(trial: Trial) -> Settings:
    return {"strength": trial.suggest_float("strength", 1e-5, 1e6, log=True)}


def suggest_step(trial: Trial) -> Settings:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-1, 1e2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-12, 1e-4, log=True),
    }


def logistic_fitter(examples: Examples, classes: int, seed: int, check: Check) -> Fit:
    """The seed is not used: the objective has one minimum."""
    problem = prepare(examples, classes)

    def fit_all(settings: Sequence[Settings]) -> Linear:
        fitted = fit(problem, [each["strength"] for each in settings], check=check)
        for each, converged in zip(settings, fitted.converged.tolist(), strict=True):
            if not converged:
                logger.warning("logistic regression did not converge", extra={**each, "images": len(examples.labels)})
        return Linear(fitted.weights, fitted.biases)

    return fit_all


def sgd_fitter(examples: Examples, classes: int, seed: int, check: Check) -> Fit:
    return lambda settings: fit_sgd(examples, [Step(**each) for each in settings], classes, seed=seed, check=check)


LOGISTIC = Probe(lambda features: features, suggest_strength, logistic_fitter)
SGD = Probe(normalise, suggest_step, sgd_fitter)


def run_probe(
    probe: Probe,
    training: Examples,
    read_test: Callable[[], Examples],
    classes: int,
    *,
    seeds: Sequence[int],
    check: Check,
) -> ProbeResult:
    """Tune, fit again on all of `training`, and test, once per seed; `read_test` is called once, after every choice.

    A seed decides the part held out, the proposals and the order of batches. `check` is called before
    every batch or round of a fit. Raises Rejected for unusable features.
    """
    check_examples(training, classes)
    examples = Examples(probe.transform(training.features), training.labels)
    choices = [choose(probe, examples, classes, seed=seed, check=check) for seed in seeds]
    test = read_test()
    check_examples(test, classes)
    features = probe.transform(test.features)
    return ProbeResult(tuple(scored(choice, Examples(features, test.labels), classes) for choice in choices))


def choose(probe: Probe, examples: Examples, classes: int, *, seed: int, check: Check) -> Chosen:
    """examples are already transformed."""
    fitted, held_out = split_per_class(examples, seed)
    fit_all = probe.fitter(fitted, classes, seed, check)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=seed, constant_liar=True))
    for _ in range(TRIALS // TRIALS_AT_ONCE):
        check()
        trials = [study.ask() for _ in range(TRIALS_AT_ONCE)]
        predicted = predict(fit_all([probe.suggest(trial) for trial in trials]), held_out.features)
        for trial, hits in zip(trials, (predicted == held_out.labels).sum(dim=1).tolist(), strict=True):
            study.tell(trial, hits / len(held_out.labels))
    best = study.best_trial  # the first of equals
    check()  # what all settings share takes its time, too
    linear = probe.fitter(examples, classes, seed, check)([best.params])
    return Chosen(seed, best.params, study.best_value, linear)


def split_per_class(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """The part to fit and the part held out: HELD_OUT of each class, rounded, drawn at random."""
    labels = examples.labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(labels)) - starts.repeat_interleave(counts)
    is_held_out = place < (counts * HELD_OUT).round().repeat_interleave(counts)
    if not is_held_out.any():
        raise Rejected(
            f"no class has 3 training images or more (the largest has {int(counts.max())}): nothing to hold out"
        )
    return part_of(examples, by_class[~is_held_out]), part_of(examples, by_class[is_held_out])


def part_of(examples: Examples, positions: Tensor) -> Examples:
    rows = positions.sort().values.to(examples.labels.device)
    return Examples(examples.features[rows], examples.labels[rows])


def scored(choice: Chosen, test: Examples, classes: int) -> Score:
    confusion = confusion_matrix(predict(choice.linear, test.features)[0], test.labels, classes)
    images = confusion.sum(dim=1)
    tested = images > 0
    per_class = confusion.diagonal()[tested] / images[tested]
    return Score(
        seed=choice.seed,
        settings=choice.settings,
        validation_top1=choice.validation_top1,
        top1=int(confusion.trace()) / len(test.labels),
        mean_per_class=float(per_class.double().mean()),
    )


def spread(values: Sequence[float]) -> Spread:
    return Spread(mean(values), stdev(values) if len(values) > 1 else 0.0)
