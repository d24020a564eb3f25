import numpy as np
import pytest

from services.sd_worker.gate import judge
from shared.specs import GateSpec

GATE = GateSpec(min_std=2.0, min_mean=1.0)


def flat(level: float) -> np.ndarray:
    return np.full((8, 8, 3), level, np.float32)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (flat(0.0), "black"),
        (flat(0.5), "blank"),
        (flat(np.nan), "not finite"),
        (np.pad(flat(1.0), ((0, 8), (0, 0), (0, 0))), None),
    ],
)
def test_blank_black_and_broken_images_are_rejected(image: np.ndarray, reason: str | None) -> None:
    assert judge(image, GATE).reason == reason


def test_numbers_are_grey_levels() -> None:
    half = np.concatenate([flat(0.0), flat(1.0)])
    verdict = judge(half, GATE)
    assert (verdict.mean, verdict.std) == (127.5, 127.5)


def test_an_image_just_above_the_thresholds_passes() -> None:
    image = flat(0.5)
    image[::2] += 2.2 * 2 / 255  # a standard deviation of 2.2 grey levels
    assert judge(image, GATE).reason is None
