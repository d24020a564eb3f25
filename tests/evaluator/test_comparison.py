import numpy as np
import pytest
from numpy.typing import NDArray

from services.evaluator.comparison import RESAMPLES, compare_models, resampled_hits, spread_over_seeds
from services.evaluator.metrics import NORMAL_95
from shared.errors import Rejected


def correlated_hits(images: int, *, seed: int) -> dict[str, NDArray[np.bool_]]:
    """Three models that find the same images hard, as real ones do."""
    generator = np.random.default_rng(seed)
    ease, noise = generator.normal(size=(images, 1)), generator.normal(size=(images, 3))
    table = ease + 0.7 * noise + [0.5, 0.4, -0.2] > 0
    return dict(zip("abc", table.T, strict=True))


def test_intervals_agree_with_the_normal_ones_of_a_large_sample() -> None:
    hits = correlated_hits(20_000, seed=0)
    found = compare_models(hits, seed=1)
    for known in found.models:
        half = NORMAL_95 * hits[known.name].std() / 20_000**0.5
        assert known[1:] == pytest.approx(
            (hits[known.name].mean(), known.top1 - half, known.top1 + half), abs=0.05 * half
        )


def test_the_difference_is_of_the_same_images() -> None:
    """Paired: its variance is that of the difference per image, not the sum of two."""
    hits = correlated_hits(20_000, seed=2)
    for known in compare_models(hits, seed=3).differences:
        each = hits[known.first].astype(float) - hits[known.second]
        half = NORMAL_95 * each.std() / 20_000**0.5
        assert known.difference == pytest.approx(each.mean())
        assert (known.low, known.high) == pytest.approx((each.mean() - half, each.mean() + half), abs=0.05 * half)


def test_intervals_agree_with_drawing_image_by_image() -> None:
    """Few images, where the normal interval is not good enough to tell."""
    hits = correlated_hits(40, seed=4)
    generator = np.random.default_rng(5)
    rows = generator.integers(0, 40, size=(RESAMPLES, 40))
    plain = hits["a"][rows].mean(axis=1) - hits["c"][rows].mean(axis=1)
    found = compare_models(hits, seed=6).differences[1]
    assert (found.first, found.second) == ("a", "c")
    assert (found.low, found.high) == pytest.approx(np.quantile(plain, (0.025, 0.975)), abs=0.026)  # an image's worth
    assert found.share_not_better == pytest.approx(np.mean(plain <= 0), abs=0.015)


def test_many_models_are_resampled_in_parts() -> None:
    """Ten models are right on hundreds of different sets of images."""
    table = np.random.default_rng(10).random((2000, 10)) < 0.7
    hits = resampled_hits(table, seed=11)
    deviations = [column.std() * 2000**0.5 for column in table.T]
    assert hits.shape == (RESAMPLES, 10)
    assert hits.std(axis=0) == pytest.approx(deviations, rel=0.05)
    assert hits.mean(axis=0) == pytest.approx(table.sum(axis=0), abs=0.05 * deviations[0])


def test_every_pair_is_compared_once_in_the_order_given() -> None:
    found = compare_models(correlated_hits(100, seed=7), seed=0)
    assert [(known.first, known.second) for known in found.differences] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert (found.images, found.resamples, found.seed) == (100, 10_000, 0)


def test_equal_models_are_never_better() -> None:
    same = correlated_hits(100, seed=8)["a"]
    assert compare_models({"a": same, "b": same.copy()}, seed=0).differences == (("a", "b", 0, 0, 0, 1),)


def test_a_model_that_is_right_more_often_everywhere_is_always_better() -> None:
    right, wrong = np.ones(50, dtype=bool), np.zeros(50, dtype=bool)
    assert compare_models({"a": right, "b": wrong}, seed=0).differences == (("a", "b", 1, 1, 1, 0),)


def test_the_seed_alone_decides_and_the_order_of_images_does_not() -> None:
    hits = correlated_hits(20_000, seed=9)
    turned = {name: each[::-1] for name, each in hits.items()}
    found = compare_models(hits, seed=0)
    assert compare_models(turned, seed=0) == found
    assert compare_models(hits, seed=1).models != found.models


def test_a_single_model_is_refused() -> None:
    with pytest.raises(Rejected, match="at least two models, there is a"):
        compare_models({"a": np.ones(3, dtype=bool)}, seed=0)


@pytest.mark.parametrize(("sizes", "message"), [((1200, 3), "a 1,200, b 3"), ((0, 0), "a 0, b 0")])
def test_other_images_are_refused(sizes: tuple[int, int], message: str) -> None:
    with pytest.raises(Rejected, match=f"the same images for every model; images tested: {message}"):
        compare_models({name: np.ones(size, dtype=bool) for name, size in zip("ab", sizes, strict=True)}, seed=0)


def test_the_spread_is_of_the_sample() -> None:
    assert spread_over_seeds([0.5, 0.6, 0.7]) == pytest.approx((0.6, 0.1, 3))


def test_a_single_seed_has_no_spread() -> None:
    assert spread_over_seeds([0.5]) == (0.5, None, 1)


def test_no_seeds_are_refused() -> None:
    with pytest.raises(Rejected, match="at least one value"):
        spread_over_seeds([])
