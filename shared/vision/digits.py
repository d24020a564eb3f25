"""The real images of the demo: scikit-learn's copy of the UCI handwritten digits."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

# WordNet 3.0 ids of zero to nine: label = digit = position in the sorted ids.
DIGIT_WNIDS = (
    "n13742358",
    "n13742573",
    "n13743269",
    "n13744044",
    "n13744304",
    "n13744521",
    "n13744722",
    "n13744916",
    "n13745086",
    "n13745270",
)
IMAGE_SIZE = 32
TRAINING_IMAGES = 1257
MAX_LEVEL = 16  # the source has 17 grey levels, 0 is background


class DigitsSplit(NamedTuple):
    """images (N, 32, 32, 3) uint8, white on black; labels (N,) int64, the digit itself."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def train_digits() -> DigitsSplit:
    """The first 1,257 digits; the file seems to run writer by writer, so most writers of the test part are not here."""
    return _digits(slice(None, TRAINING_IMAGES))


def test_digits() -> DigitsSplit:
    """The last 540 digits, for evaluation only."""
    return _digits(slice(TRAINING_IMAGES, None))


def _digits(part: slice) -> DigitsSplit:
    source = load_digits()
    return DigitsSplit(_enlarge(source.images[part]), source.target[part].astype(np.int64))


def _enlarge(levels: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    small = torch.from_numpy(levels).float()[:, None] / MAX_LEVEL * 2 - 1  # (N, 1, 8, 8) in [-1, 1]
    large = F.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False).clamp(-1, 1)
    grey = ((large + 1) * 127.5).round().to(torch.uint8)
    return grey.permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy()
