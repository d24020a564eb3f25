import pytest
import torch

from services.evaluator.linear import Examples, Linear, never_stop, predict
from services.evaluator.logistic import fit, prepare
from services.evaluator.sgd_probe import normalise
from services.evaluator.tuning import (
    LOGISTIC,
    SGD,
    TRIALS,
    TRIALS_AT_ONCE,
    Chosen,
    Probe,
    choose,
    run_probe,
    scored,
    split_per_class,
    spread,
)
from shared.errors import Rejected
from tests.evaluator.examples import clouds, digits

pytestmark = pytest.mark.usefixtures("one_thread")

ROUNDS = TRIALS // TRIALS_AT_ONCE


def noisy_digits() -> Examples:
    """Few digits among many meaningless features, so that weak regularisation fits the noise."""
    training, _ = digits()
    noise = 4 * torch.randn(300, 400, generator=torch.Generator().manual_seed(0))
    return Examples(torch.cat([training.features[:300], noise], dim=1), training.labels[:300])


def test_the_search_finds_the_strength_that_a_fine_grid_finds() -> None:
    examples = noisy_digits()
    chosen = choose(LOGISTIC, examples, 10, seed=0, check=never_stop)
    fitted, held_out = split_per_class(examples, 0)
    grid = [10 ** (step / 5) for step in range(-25, 31)]
    weights, biases = fit(prepare(fitted, 10), grid)[:2]
    hits = (predict(Linear(weights, biases), held_out.features) == held_out.labels).double().mean(dim=1)
    best = [strength for strength, share in zip(grid, hits.tolist(), strict=True) if share == hits.max()]
    # The peak is one worth finding: the worst of the grid loses ten points on it.
    assert hits.min() < hits.max() - 0.1
    assert chosen.validation_top1 >= hits.max() - 1 / len(held_out.labels)
    assert min(best) / 10 < chosen.settings["strength"] < max(best) * 10


def test_the_test_part_is_read_once_after_the_choices_of_every_seed() -> None:
    happened: list[str] = []
    examples = clouds(60, 4, 3, apart=0.3)

    def read_test() -> Examples:
        happened.append("test read")
        return examples

    run_probe(LOGISTIC, examples, read_test, 3, seeds=[0, 1], check=lambda: happened.append("fitted on"))
    assert happened[-1] == "test read"
    assert happened.count("test read") == 1 < ROUNDS * 2 < len(happened)


@pytest.mark.parametrize(("probe", "least"), [(LOGISTIC, 0.9), (SGD, 0.88)], ids=["logistic", "sgd"])
def test_tuned_probes_read_most_digits_of_unseen_writers(probe: Probe, least: float) -> None:
    training, test = digits()
    result = run_probe(probe, training, lambda: test, 10, seeds=[0], check=never_stop)
    assert least < result.top1.mean < 0.96
    assert result.mean_per_class.mean == pytest.approx(result.top1.mean, abs=0.01)


def test_a_seed_repeats_its_choice_and_another_seed_splits_anew() -> None:
    examples = clouds(120, 6, 3, apart=0.3)
    first, again, other = (choose(LOGISTIC, examples, 3, seed=seed, check=never_stop) for seed in (0, 0, 1))
    assert first.settings == again.settings
    assert torch.equal(first.linear.weights, again.linear.weights)
    assert first.settings != other.settings


def test_the_last_fit_is_on_all_of_the_training_part() -> None:
    examples = clouds(120, 6, 3, apart=0.3)
    chosen = choose(LOGISTIC, examples, 3, seed=0, check=never_stop)
    weights = fit(prepare(examples, 3), [chosen.settings["strength"]]).weights
    assert torch.equal(chosen.linear.weights, weights)


def test_a_fifth_of_each_class_is_held_out() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 3 + [3] * 2 + [5] * 1)
    features = torch.arange(len(labels), dtype=torch.float32)[:, None]
    fitted, held_out = split_per_class(Examples(features, labels), 0)
    assert held_out.labels.bincount(minlength=6).tolist() == [10, 2, 1, 0, 0, 0]
    assert fitted.labels.bincount(minlength=6).tolist() == [40, 8, 2, 2, 0, 1]
    both = torch.cat([fitted.features, held_out.features])[:, 0].sort().values
    assert torch.equal(both, features[:, 0])
    assert torch.equal(labels[held_out.features[:, 0].long()], held_out.labels)


def test_the_part_held_out_is_drawn_anew_for_each_seed() -> None:
    examples = clouds(100, 2, 2, apart=0.3)
    parts = [split_per_class(examples, seed)[1].features for seed in (0, 0, 1)]
    assert torch.equal(parts[0], parts[1])
    assert parts[0].shape != parts[2].shape or not torch.equal(parts[0], parts[2])


class Stopped(Exception):
    pass


def stopped_at(calls: int, probe: Probe) -> int:
    """How often the check was asked by a search that it stops at the given call."""
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == calls:
            raise Stopped

    with pytest.raises(Stopped):
        run_probe(probe, clouds(60, 4, 3, apart=0.3), pytest.fail, 3, seeds=[0], check=check)
    return asked


@pytest.mark.parametrize("probe", [LOGISTIC, SGD], ids=["logistic", "sgd"])
def test_a_search_is_stopped_within_a_fit_and_within_the_last_one(probe: Probe) -> None:
    """Not a test that waits: with a check before each round of trials alone, the second call would be too late."""
    every_call: list[int] = []
    run_probe(
        probe,
        clouds(60, 4, 3, apart=0.3),
        lambda: clouds(60, 4, 3, apart=0.3),
        3,
        seeds=[0],
        check=lambda: every_call.append(1),
    )
    assert len(every_call) > 5 * (ROUNDS + 1)
    for calls in (1, 3, len(every_call)):
        assert stopped_at(calls, probe) == calls


def test_scores_count_classes_alike_whatever_their_size() -> None:
    test = Examples(torch.tensor([[1.0, 0, 0]] * 8 + [[0, 1.0, 0]] * 2), torch.tensor([0] * 6 + [1] * 4))
    choice = Chosen(3, {"strength": 1.0}, 0.5, Linear(torch.eye(3)[None], torch.zeros(1, 3)))
    score = scored(choice, test, 3)
    # All six of class 0 are right, two of the four of class 1; class 2 has no images.
    assert (score.top1, score.mean_per_class) == (0.8, pytest.approx(0.75))


def test_a_spread_is_the_sample_s_mean_and_deviation() -> None:
    assert spread([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, (7 / 3) ** 0.5))
    assert spread([0.5]) == (0.5, 0.0)


def test_the_sgd_probe_sees_rows_of_length_one() -> None:
    assert torch.allclose(SGD.transform(torch.tensor([[3.0, 4.0]])), normalise(torch.tensor([[6.0, 8.0]])))
    assert torch.equal(LOGISTIC.transform(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0]]))


def test_too_few_images_to_hold_any_out_are_refused() -> None:
    with pytest.raises(Rejected, match=r"no class has 3 training images or more \(the largest has 2\)"):
        split_per_class(Examples(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])), 0)


def test_training_features_with_a_nan_are_refused_before_any_trial() -> None:
    features, labels = clouds(60, 4, 3, apart=0.3)
    features[7, 2] = torch.nan
    with pytest.raises(Rejected, match="feature 2 of image 7 is nan"):
        run_probe(SGD, Examples(features, labels), pytest.fail, 3, seeds=[0], check=pytest.fail)
