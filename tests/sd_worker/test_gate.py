import numpy as np
import pytest
from PIL import Image

from services.sd_worker.gate import judge
from shared.specs import GateSpec

GATE = GateSpec(min_std=2.0, min_mean=1.0)


def flat(level: int) -> np.ndarray:
    return np.full((8, 8, 3), level, np.uint8)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (flat(0), "black"),
        (flat(128), "blank"),
        (np.pad(flat(255), ((0, 8), (0, 0), (0, 0))), None),
    ],
)
def test_blank_and_black_images_are_rejected(image: np.ndarray, reason: str | None) -> None:
    assert judge(Image.fromarray(image), GATE, is_finite=True).reason == reason


def test_an_image_that_was_not_finite_is_rejected_whatever_it_was_rounded_to() -> None:
    half = np.concatenate([flat(0), flat(255)])
    assert judge(Image.fromarray(half), GATE, is_finite=False).reason == "not finite"


def test_numbers_are_grey_levels() -> None:
    half = np.concatenate([flat(0), flat(255)])
    verdict = judge(Image.fromarray(half), GATE, is_finite=True)
    assert (verdict.mean, verdict.std) == (127.5, 127.5)


def test_an_image_just_above_the_thresholds_passes() -> None:
    image = flat(128)
    image[::2] += 5  # a standard deviation of 2.5 grey levels
    assert judge(Image.fromarray(image), GATE, is_finite=True).reason is None
