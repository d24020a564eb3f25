"""The plain recipe: one random crop of each image, every choice drawn from the generator it is given."""

import math

from shared.vision.images import resized, squared

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SMALL_IMAGE = 64  # pixels; below it, crops that change the scale lose too much of what is there
SCALES = (0.25, 1.0)
ASPECTS = (3 / 4, 4 / 3)
TRIES = 10


def augmented(image: Tensor, generator: np.random.Generator, *, size: int, flip: bool) -> Tensor:
    """(3, H, W) uint8 to (3, size, size) uint8."""
    crop = shifted(squared(image, size), generator) if size <= SMALL_IMAGE else rescaled(image, generator, size)
    return torch.flip(crop, dims=(2,)) if flip and generator.random() < 0.5 else crop


def shifted(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Moved by up to an eighth of the side, with black where nothing was."""
    size = image.shape[1]
    margin = size // 8
    top, left = generator.integers(0, 2 * margin + 1, size=2)
    return F.pad(image, (margin,) * 4)[:, top : top + size, left : left + size]


def rescaled(image: Tensor, generator: np.random.Generator, size: int) -> Tensor:
    """A random part of the image, by area and aspect (Szegedy et al. 2015, section 6), resized to the square."""
    height, width = image.shape[1:]
    for _ in range(TRIES):
        area = height * width * generator.uniform(*SCALES)
        aspect = math.exp(generator.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = generator.integers(0, height - rows + 1), generator.integers(0, width - columns + 1)
            return resized(image[:, top : top + rows, left : left + columns], size, size)
    return squared(image, size)
