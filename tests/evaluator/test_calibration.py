import pytest
import torch
from torch import Tensor

from services.evaluator.calibration import calibration
from shared.errors import Rejected


def confident(*confidences: float) -> Tensor:
    """Logits (N, 2) for which class 0 has these probabilities."""
    chance = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([chance.log(), (1 - chance).log()], dim=1)


def test_the_error_of_a_case_made_by_hand() -> None:
    """Three images near 0.9, of which two are right, and one near 0.55 that is wrong."""
    found = calibration(confident(0.88, 0.9, 0.92, 0.55), torch.tensor([0, 0, 1, 1]))
    assert found.error == pytest.approx(3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.55)
    filled = {place: each for place, each in enumerate(found.bins) if each.images}
    assert [(place, each.images) for place, each in filled.items()] == [(8, 1), (13, 3)]
    assert filled[13] == pytest.approx((13 / 15, 14 / 15, 3, 0.9, 2 / 3))
    assert found.bins[0] == pytest.approx((0, 1 / 15, 0, None, None))


def test_errors_of_two_bins_do_not_cancel() -> None:
    found = calibration(confident(0.9, 0.6), torch.tensor([1, 0]))
    assert found.error == pytest.approx((0.9 + 0.4) / 2)


def test_images_right_as_often_as_claimed_have_no_error() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    assert calibration(confident(*[0.75] * 4), labels).error == pytest.approx(0, abs=1e-12)


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    """Three of 15 classes are equally likely, so the confidence is a third: the upper edge of the fifth bin."""
    logits = torch.full((1, 15), -torch.inf)
    logits[0, :3] = 0
    assert [place for place, each in enumerate(calibration(logits, torch.tensor([0])).bins) if each.images] == [4]


def test_certainty_is_in_the_last_bin() -> None:
    found = calibration(torch.tensor([[1000.0, 0], [0, 1000.0]]), torch.tensor([0, 1]))
    assert (found.error, found.bins[14].images) == (0, 2)


def test_the_error_agrees_with_counting_image_by_image() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = 2 * torch.randn(500, 7, generator=generator), torch.randint(0, 7, (500,), generator=generator)
    members: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        chances = (row.exp() / row.exp().sum()).tolist()
        best = max(chances)
        place = next(place for place in range(15) if best <= (place + 1) / 15)
        members.setdefault(place, []).append((best, chances.index(best) == label))
    plain = sum(abs(sum(hit - best for best, hit in each)) for each in members.values()) / 500
    assert calibration(logits, labels).error == pytest.approx(plain)


def test_logits_that_are_not_numbers_are_refused() -> None:
    logits = torch.zeros(3, 2)
    logits[1, 0] = torch.nan
    with pytest.raises(Rejected, match="the logits of image 1 are not numbers"):
        calibration(logits, torch.zeros(3, dtype=torch.int64))


def test_no_images_are_refused() -> None:
    with pytest.raises(Rejected, match="at least one image"):
        calibration(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
