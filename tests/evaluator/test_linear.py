import pytest
import torch
import torch.nn.functional as F

from services.evaluator.linear import (
    CHUNK_ELEMENTS,
    Examples,
    Linear,
    check_examples,
    full_precision,
    losses_and_residuals,
    predict,
)
from shared.errors import Rejected


def test_losses_and_residuals_agree_with_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(5, (7,), generator=generator)
    plain = torch.stack([F.cross_entropy(of_one, labels, reduction="sum") for of_one in logits.unbind(1)])
    plain.sum().backward()
    losses, residuals = losses_and_residuals(logits.detach(), labels)
    assert torch.allclose(losses, plain.detach())
    assert torch.allclose(residuals, logits.grad)  # type: ignore[arg-type]


def test_predictions_of_many_rows_are_those_of_each_classifier_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = Linear(torch.randn(4, 512, 3, generator=generator), torch.randn(4, 512, generator=generator))
    features = torch.randn(CHUNK_ELEMENTS // 2048 + 5, 3, generator=generator)
    plain = [(features @ weights.T + biases).argmax(dim=1) for weights, biases in zip(*linear, strict=True)]
    assert torch.equal(predict(linear, features), torch.stack(plain))


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (2, 1, torch.nan, "feature 1 of image 2 is nan, and so are 0 more"),
        (0, 3, torch.inf, "feature 3 of image 0 is inf, and so are 0 more"),
    ],
)
def test_features_that_are_not_finite_are_named(row: int, column: int, value: float, message: str) -> None:
    features = torch.zeros(4, 5)
    features[row, column] = value
    with pytest.raises(Rejected, match=message):
        check_examples(Examples(features, torch.tensor([0, 1, 0, 1])), 2)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.tensor([0, 2, 1]), "labels run from 0 to 2; 2 classes allow 0 to 1"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 1]), "labels run from -1 to 1"),
        (torch.zeros(3, 2), torch.tensor([0, 1]), r"features \(3, 2\) and labels \(2,\)"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "no training images"),
    ],
)
def test_examples_that_do_not_fit_are_refused(features: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(Rejected, match=message):
        check_examples(Examples(features, labels), 2)


def test_full_precision_lasts_for_the_block_alone() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision():
            inside = torch.get_float32_matmul_precision()
        assert (inside, torch.get_float32_matmul_precision()) == ("highest", "medium")
    finally:
        torch.set_float32_matmul_precision("highest")
