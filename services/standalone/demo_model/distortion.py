"""Small random affine changes, so that 1,257 digits stand for more than themselves."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ROTATION = math.radians(10)
SHEAR = 0.10
SCALE_CENTRE, SCALE_SPREAD = 1.04, 0.08
SHIFT_X, SHIFT_Y = 0.12, 0.06  # shares of half the image
BLACK = -1.0


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, scale, shear and shift each of the images (N, C, H, W) in [-1, 1] by its own random amounts."""
    grid = F.affine_grid(_random_matrices(len(images), generator), list(images.shape), align_corners=False)
    # Outside the image grid_sample reads zeros, so black must be zero while it runs.
    return F.grid_sample(images - BLACK, grid, align_corners=False) + BLACK


def _random_matrices(count: int, generator: torch.Generator) -> Tensor:
    """(count, 2, 3) matrices from output to input coordinates."""
    angle, scale, shear, shift_x, shift_y = torch.rand(5, count, generator=generator) * 2 - 1
    angle = angle * ROTATION
    scale = SCALE_CENTRE + scale * SCALE_SPREAD
    first = torch.stack([angle.cos() * scale, -angle.sin() * scale + shear * SHEAR, shift_x * SHIFT_X], dim=1)
    second = torch.stack([angle.sin() * scale, angle.cos() * scale, shift_y * SHIFT_Y], dim=1)
    return torch.stack([first, second], dim=1)
