import pytest
import torch

from services.evaluator.metrics import confusion_matrix, top_k_hits, wilson_interval

LOGITS = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [2.0, 3.0, 1.0], [1.0, 2.0, 3.0]])
LABELS = torch.tensor([0, 2, 0, 2])


@pytest.mark.parametrize(("k", "hits"), [(1, 2), (2, 4), (3, 4), (5, 4)])
def test_a_hit_is_a_label_among_the_k_best(k: int, hits: int) -> None:
    assert top_k_hits(LOGITS, LABELS, k) == hits


def test_top_k_agrees_with_sorting_each_row() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 12, generator=generator), torch.randint(0, 12, (200,), generator=generator)
    best = [sorted(range(12), key=row.__getitem__)[-5:] for row in logits.tolist()]
    plain = sum(label in row for label, row in zip(labels.tolist(), best, strict=True))
    assert top_k_hits(logits, labels, 5) == plain


def test_rows_of_the_confusion_are_true_classes() -> None:
    expected = [[1, 1, 0], [0, 0, 0], [0, 1, 1]]
    assert confusion_matrix(LOGITS.argmax(dim=1), LABELS, 3).tolist() == expected


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    # Newcombe 1998, table I, method 3, printed with four digits.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_agrees_with_published_cases(hits: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(hits, total) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_a_perfect_score_ends_at_one() -> None:
    assert wilson_interval(540, 540) == pytest.approx((0.99294, 1.0), abs=5e-5)
