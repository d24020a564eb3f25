import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from services.evaluator.linear import Examples, Linear, predict
from services.evaluator.logistic import Fitted, fit_logistic
from shared.errors import Rejected
from tests.evaluator.examples import clouds, digits

STRENGTHS = (1e-4, 1e-2, 1.0, 100.0)

pytestmark = pytest.mark.usefixtures("one_thread")


def fitted_by_sklearn(examples: Examples, strength: float) -> tuple[Tensor, Tensor]:
    """weights (C, D) and biases (C,)."""
    model = LogisticRegression(C=strength, max_iter=20_000, tol=1e-9).fit(*(part.numpy() for part in examples))
    return torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)


def objective(examples: Examples, weights: Tensor, biases: Tensor, strength: float) -> float:
    """Per image, written out plainly."""
    logits = examples.features.double() @ weights.double().T + biases.double()
    penalty = weights.double().square().sum() / (2 * strength * len(logits))
    return float(F.cross_entropy(logits, examples.labels) + penalty)


def linear(fitted: Fitted) -> Linear:
    return Linear(fitted.weights, fitted.biases)


def test_several_strengths_at_once_reach_scikit_learn_s_minima() -> None:
    examples = clouds(400, 12, 5, apart=0.5)
    fitted = fit_logistic(*examples, STRENGTHS, 5, tolerance=1e-14)
    for weights, biases, ours, strength in zip(*fitted[:3], STRENGTHS, strict=True):
        their_weights, their_biases = fitted_by_sklearn(examples, strength)
        assert ours == pytest.approx(objective(examples, their_weights, their_biases, strength), rel=1e-9)
        assert torch.allclose(weights, their_weights, atol=1e-4)
        # Adding one number to every bias changes nothing.
        assert torch.allclose(biases - biases.mean(), their_biases - their_biases.mean(), atol=1e-4)


def test_single_precision_predicts_what_scikit_learn_predicts_in_double() -> None:
    examples = clouds(1000, 30, 8, apart=0.4, dtype=torch.float32)
    fitted = fit_logistic(*examples, STRENGTHS, 8)
    assert fitted.converged.all()
    doubled = Examples(examples.features.double(), examples.labels)
    for row, strength in enumerate(STRENGTHS):
        theirs = fitted_by_sklearn(doubled, strength)
        assert float(fitted.objectives[row]) == pytest.approx(objective(doubled, *theirs, strength), rel=1e-6)
        their_predictions = (doubled.features @ theirs[0].T + theirs[1]).argmax(dim=1)
        assert (predict(linear(fitted), examples.features)[row] == their_predictions).double().mean() >= 0.998


def test_reported_objectives_are_those_of_the_returned_weights() -> None:
    examples = clouds(300, 10, 4, apart=0.5, dtype=torch.float32)
    fitted = fit_logistic(*examples, STRENGTHS, 4)
    plain = [objective(examples, *of_one) for of_one in zip(fitted.weights, fitted.biases, STRENGTHS, strict=True)]
    assert fitted.objectives.tolist() == pytest.approx(plain, rel=1e-12)


def test_strengths_side_by_side_are_each_strength_alone() -> None:
    examples = clouds(400, 12, 5, apart=0.5)
    together = fit_logistic(*examples, STRENGTHS, 5, tolerance=1e-12)
    for row, strength in enumerate(STRENGTHS):
        alone = fit_logistic(*examples, [strength], 5, tolerance=1e-12)
        assert torch.allclose(together.weights[row], alone.weights[0], atol=1e-6)
        assert together.objectives[row].item() == pytest.approx(alone.objectives.item(), rel=1e-10)


def test_the_same_call_gives_the_same_bits() -> None:
    examples = clouds(300, 10, 4, apart=0.5, dtype=torch.float32)
    first, second = (fit_logistic(*examples, STRENGTHS, 4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_separable_classes_converge_at_every_strength_of_the_search() -> None:
    training, _ = digits()
    fitted = fit_logistic(*training, [10.0**exponent for exponent in range(-5, 7)], 10)
    assert fitted.converged.all()
    assert (fitted.objectives.diff() < 0).all()
    assert torch.equal(predict(linear(fitted), training.features)[-1], training.labels)


def test_two_classes_are_scikit_learn_s_binomial_model_at_twice_the_strength() -> None:
    examples = clouds(300, 6, 2, apart=0.5)
    fitted = fit_logistic(*examples, [0.05], 2, tolerance=1e-14)
    weights, biases = fitted_by_sklearn(examples, 0.1)
    assert torch.allclose(fitted.weights[0, 1] - fitted.weights[0, 0], weights[0], atol=1e-5)
    assert float(fitted.biases[0, 1] - fitted.biases[0, 0]) == pytest.approx(float(biases[0]), abs=1e-5)


def test_a_class_without_images_is_never_predicted_and_changes_no_other() -> None:
    features, labels = clouds(400, 12, 4, apart=0.5)
    spaced = labels + (labels >= 2)  # nothing is of class 2 of five
    fitted, dense = fit_logistic(features, spaced, [1.0], 5), fit_logistic(features, labels, [1.0], 4)
    assert torch.equal(fitted.weights[:, [0, 1, 3, 4]], dense.weights)
    assert fitted.biases[0, 2].item() == -torch.inf
    assert 2 not in predict(linear(fitted), 100 * torch.randn_like(features))


def test_a_constant_feature_gets_no_weight() -> None:
    features, labels = clouds(400, 12, 5, apart=0.5)
    features[:, 3] = 7.0
    fitted = fit_logistic(features, labels, STRENGTHS, 5, tolerance=1e-12)
    assert fitted.converged.all()
    assert fitted.weights[:, :, 3].abs().max() < 1e-9


def test_features_that_say_nothing_give_the_classes_shares() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    fitted = fit_logistic(torch.full((100, 4), 5.0, dtype=torch.float64), labels, [1.0], 3, tolerance=1e-14)
    assert fitted.biases[0].softmax(dim=0).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=1e-6)


def test_more_dimensions_than_images_reach_scikit_learn_s_minimum() -> None:
    examples = clouds(40, 90, 3, apart=0.3)
    fitted = fit_logistic(*examples, [0.1], 3, tolerance=1e-14)
    theirs = objective(examples, *fitted_by_sklearn(examples, 0.1), 0.1)
    assert fitted.objectives.item() == pytest.approx(theirs, rel=1e-9)


def test_an_iteration_limit_that_is_hit_is_told() -> None:
    examples = clouds(400, 12, 5, apart=0.5)
    fitted = fit_logistic(*examples, (1e-4, 100.0), 5, max_iterations=8)
    assert fitted.converged.tolist() == [True, False]
    assert fitted.iterations[1] == 8


def test_images_of_a_single_class_are_refused() -> None:
    with pytest.raises(Rejected, match="all 4 training images are of class 1"):
        fit_logistic(torch.randn(4, 3), torch.ones(4, dtype=torch.int64), [1.0], 2)


@pytest.mark.parametrize("strength", [0.0, -1.0, torch.inf, torch.nan])
def test_a_strength_that_is_not_positive_is_refused(strength: float) -> None:
    with pytest.raises(Rejected, match="must all be positive and finite"):
        fit_logistic(*clouds(30, 3, 2, apart=0.5), [1.0, strength], 2)


def test_features_with_a_nan_are_refused() -> None:
    features, labels = clouds(30, 3, 2, apart=0.5)
    features[7, 2] = torch.nan
    with pytest.raises(Rejected, match="feature 2 of image 7 is nan"):
        fit_logistic(features, labels, [1.0], 2)
