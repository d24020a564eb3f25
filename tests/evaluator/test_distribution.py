import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from services.evaluator.distribution import (
    Sample,
    compare_sets,
    density_coverage,
    draw_rows,
    frechet_distance,
    memorisation,
    precision_recall,
)
from shared.errors import Rejected


def gaussian(rows: int, width: int, *, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated columns, away from the origin as pooled features are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64) @ mixing + 3 + shift


def plain_frechet(first: Tensor, second: Tensor) -> float:
    covariances = first.T.cov().numpy(), second.T.cov().numpy()
    root = sqrtm(covariances[0] @ covariances[1])
    means = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    return float(means) + float(sum(each.trace() for each in covariances)) - 2 * float(root.real.trace())


def plain_kth(features: list[list[float]], k: int) -> list[float]:
    return [
        sorted(apart(one, other) for place, other in enumerate(features) if place != own)[k - 1]
        for own, one in enumerate(features)
    ]


def apart(one: list[float], other: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5


def plain_share_inside(points: list[list[float]], centres: list[list[float]], k: int) -> float:
    balls = list(zip(centres, plain_kth(centres, k), strict=True))
    return sum(any(apart(point, centre) <= radius for centre, radius in balls) for point in points) / len(points)


def plain_density_coverage(synthetic: list[list[float]], real: list[list[float]], k: int) -> tuple[float, float]:
    balls = list(zip(real, plain_kth(real, k), strict=True))
    held = [sum(apart(point, centre) < radius for point in synthetic) for centre, radius in balls]
    return sum(held) / (k * len(synthetic)), sum(count > 0 for count in held) / len(real)


@pytest.mark.parametrize("rows", [400, 17_000])  # one stretch of rows, and two
def test_frechet_distance_agrees_with_the_root_of_the_product(rows: int) -> None:
    first, second = gaussian(rows, 12, seed=1), gaussian(300, 12, seed=2, shift=0.5)
    assert frechet_distance(first, second) == pytest.approx(plain_frechet(first, second), rel=1e-10)


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    """With covariances that commute the trace is the sum of (s1 - s2)^2 over the columns."""
    white = gaussian(500, 6, seed=3)
    white = (white - white.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T
    scales, others = torch.tensor([1.0, 2, 3, 4, 5, 0]), torch.tensor([2.0, 2, 1, 0, 7, 0])
    first, second = white * scales, white * others + torch.tensor([1.0, -2, 0, 0, 0, 3])
    assert frechet_distance(first, second) == pytest.approx(1 + 0 + 4 + 16 + 4 + 0 + 14, rel=1e-10)


def test_frechet_distance_with_fewer_images_than_features() -> None:
    """Both sets lie in a plane of five of 200 dimensions, where the distance is that of the five coordinates."""
    plane = torch.linalg.qr(gaussian(200, 5, seed=4)).Q.T  # (5, 200)
    first, second = gaussian(20, 5, seed=5), gaussian(30, 5, seed=6)
    assert frechet_distance(first @ plane, second @ plane) == pytest.approx(plain_frechet(first, second), rel=1e-9)


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    features = gaussian(60, 100, seed=7).float()
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def test_the_four_shares_agree_with_every_pair_looked_at() -> None:
    first, second = gaussian(40, 3, seed=8)[:, :2], gaussian(31, 3, seed=9, shift=1)[:, :2]
    synthetic, real = first.tolist(), second.tolist()
    expected = plain_share_inside(synthetic, real, 3), plain_share_inside(real, synthetic, 3)
    assert 0 < min(expected) < max(expected) < 1
    assert precision_recall(first, second) == pytest.approx(expected)
    assert density_coverage(first, second) == pytest.approx(plain_density_coverage(synthetic, real, 5))


def test_a_set_compared_with_itself_has_ones() -> None:
    features = gaussian(50, 8, seed=10)
    assert precision_recall(features, features) == (1, 1)
    assert density_coverage(features, features) == (1, 1)


def test_sets_apart_have_zeros() -> None:
    features = gaussian(50, 8, seed=11)
    assert precision_recall(features, features + 1000) == (0, 0)
    assert density_coverage(features, features + 1000) == (0, 0)


def test_a_generator_of_one_photo_is_precise_and_recalls_nothing_else() -> None:
    """What recall and coverage are for."""
    real = gaussian(60, 8, seed=12)
    single = real[:1] + 1e-6 * gaussian(60, 8, seed=13)
    assert precision_recall(single, real).precision == 1
    assert precision_recall(single, real).recall == 1 / 60  # the photo itself
    assert density_coverage(single, real).coverage < 0.5


def test_a_comparison_is_of_its_sample_and_of_nothing_else() -> None:
    synthetic, real = gaussian(90, 4, seed=14), gaussian(80, 4, seed=15)
    found = compare_sets(synthetic, real, Sample(synthetic=50, real=40, seed=1))
    assert found == compare_sets(synthetic, real, Sample(50, 40, seed=1))
    assert found.sample == (50, 40, 1)
    assert found.frechet != compare_sets(synthetic, real, Sample(50, 40, seed=2)).frechet


def test_a_sample_of_everything_is_the_sets_themselves() -> None:
    synthetic, real = gaussian(90, 4, seed=16), gaussian(80, 4, seed=17)
    found = compare_sets(synthetic, real, Sample(90, 80, seed=1))
    expected = (
        frechet_distance(synthetic, real),
        *precision_recall(synthetic, real),
        *density_coverage(synthetic, real),
    )
    assert found[1:] == expected


def test_the_two_sets_are_sampled_independently() -> None:
    same = gaussian(1000, 2, seed=18)
    drawn = [draw_rows(kind, same, count=100, seed=1).tolist() for kind in ("synthetic", "real")]
    assert drawn[0] != drawn[1]
    assert all(rows == sorted(set(rows)) for rows in drawn)


def test_copies_of_training_photos_are_found() -> None:
    real, synthetic = gaussian(2000, 6, seed=19), gaussian(300, 6, seed=19, shift=50)
    synthetic[[4, 70, 299]] = real[[1999, 3, 1000]]
    synthetic[5] = real[42] + 1e-4
    found = memorisation(synthetic, real, Sample(synthetic=300, real=1500, seed=0))
    assert [pair[:2] for pair in found.closest[:4]] == [(4, 1999), (70, 3), (299, 1000), (5, 42)]
    assert [pair.distance for pair in found.closest[:4]] == pytest.approx([0, 0, 0, 6**0.5 * 1e-4])
    assert found.share_within == (4 / 300, 4 / 300)
    assert found.bank == 2000


def test_fresh_photos_are_as_near_as_photos_are_to_each_other() -> None:
    photos = gaussian(14_000, 2, seed=20)
    found = memorisation(photos[:7000], photos[7000:], Sample(synthetic=7000, real=7000, seed=0))
    assert found.share_within == (pytest.approx(0.01, abs=0.004), pytest.approx(0.001, abs=0.0015))


def test_quantiles_are_of_the_distances_between_real_photos() -> None:
    real = torch.arange(1, 1002, dtype=torch.float64).cumsum(0)[:, None]  # gaps 2, 3, ... 1001
    found = memorisation(real[:1] - 5000, real, Sample(synthetic=1, real=1001, seed=0))
    nearest_gaps = torch.tensor([2.0, *range(2, 1002)], dtype=torch.float64)
    assert found.distances == tuple(nearest_gaps.quantile(torch.tensor([0.01, 0.001], dtype=torch.float64)).tolist())
    assert found.share_within == (0, 0)


SMALL = gaussian(30, 4, seed=21)
BROKEN = SMALL.index_fill(0, torch.tensor([7]), torch.nan)


@pytest.mark.parametrize(
    ("synthetic", "real", "sample", "message"),
    [
        (SMALL, SMALL, Sample(31, 30, 0), r"the synthetic set has 30 images and this comparison needs 31"),
        (SMALL, SMALL, Sample(30, 2000, 0), r"the real set has 30 images and this comparison needs 2,000"),
        (SMALL, SMALL, Sample(3, 30, 0), r"the synthetic set has 3 images and this comparison needs 4"),
        (SMALL[:, :3], SMALL, Sample(30, 30, 0), "synthetic features are 3 wide and real ones 4"),
        (SMALL, BROKEN, Sample(30, 30, 0), "real image 7 are not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(synthetic: Tensor, real: Tensor, sample: Sample, message: str) -> None:
    with pytest.raises(Rejected, match=message):
        compare_sets(synthetic, real, sample)


def test_too_few_real_photos_have_no_quantile() -> None:
    with pytest.raises(Rejected, match="the sample of the real set has 30 images and this comparison needs 1,000"):
        memorisation(SMALL, SMALL, Sample(10, 2000, 0))
