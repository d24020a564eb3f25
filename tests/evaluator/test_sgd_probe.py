import pytest
import torch
import torch.nn.functional as F

from services.evaluator.linear import Examples, Linear, predict
from services.evaluator.logistic import fit_logistic
from services.evaluator.sgd_probe import BATCH_SIZE, Step, batches, fit_sgd, normalise
from shared.errors import Rejected
from tests.evaluator.examples import clouds, digits

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = (Step(0.5, 1e-4), Step(20.0, 1e-2))


def fit_plainly(examples: Examples, step: Step, classes: int, *, seed: int, epochs: int) -> Linear:
    """torch's own optimiser and schedule, one layer."""
    layer = torch.nn.Linear(examples.features.shape[1], classes, dtype=examples.features.dtype)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    groups = [{"params": [layer.weight], "weight_decay": step.weight_decay}, {"params": [layer.bias]}]
    optimiser = torch.optim.SGD(groups, lr=step.learning_rate, momentum=0.9)
    every = list(batches(len(examples.labels), epochs, seed))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(every))
    for batch in every:
        optimiser.zero_grad()
        F.cross_entropy(layer(examples.features[batch]), examples.labels[batch]).backward()
        optimiser.step()
        schedule.step()
    return Linear(layer.weight.detach(), layer.bias.detach())


def test_layers_side_by_side_take_the_steps_of_torch_s_optimiser() -> None:
    features, labels = clouds(BATCH_SIZE + 300, 8, 3, apart=0.5)
    examples = Examples(normalise(features), labels)
    together = fit_sgd(examples, STEPS, 3, seed=4, epochs=5)
    for row, step in enumerate(STEPS):
        plain = fit_plainly(examples, step, 3, seed=4, epochs=5)
        assert torch.allclose(together.weights[row], plain.weights, rtol=1e-9, atol=1e-12)
        assert torch.allclose(together.biases[row], plain.biases, rtol=1e-9, atol=1e-12)


def test_an_epoch_sees_every_image_once_in_an_order_of_its_own() -> None:
    every = list(batches(2500, 2, seed=0))
    assert [len(batch) for batch in every] == [1024, 1024, 452] * 2
    first, second = torch.cat(every[:3]), torch.cat(every[3:])
    assert torch.equal(first.sort().values, torch.arange(2500))
    assert torch.equal(second.sort().values, torch.arange(2500))
    assert not torch.equal(first, second)


def test_the_probe_reaches_the_accuracy_of_logistic_regression_on_digits() -> None:
    training, test = (Examples(normalise(part.features), part.labels) for part in digits())
    fitted = fit_logistic(*training, [100.0], 10)
    logistic = Linear(fitted.weights, fitted.biases)
    by_sgd, by_logistic = (
        float((predict(linear, test.features)[0] == test.labels).double().mean())
        for linear in (fit_sgd(training, [Step(10.0, 1e-9)], 10, seed=0), logistic)
    )
    assert by_logistic > 0.9
    assert by_sgd == pytest.approx(by_logistic, abs=0.02)


def test_another_seed_gives_other_weights_and_the_same_seed_the_same() -> None:
    examples = clouds(BATCH_SIZE + 300, 8, 3, apart=0.5)
    first, again, other = (fit_sgd(examples, STEPS, 3, seed=seed, epochs=2).weights for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_features_with_a_nan_are_refused() -> None:
    features, labels = clouds(30, 3, 2, apart=0.5)
    features[7, 2] = torch.nan
    with pytest.raises(Rejected, match="feature 2 of image 7 is nan"):
        fit_sgd(Examples(features, labels), STEPS, 2, seed=0)
