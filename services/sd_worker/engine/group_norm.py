"""Group normalisation and SiLU of images that lie channels last: read twice and written once."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .choices import Operation, computed
from .launching import programs, unfit

STRIPE = 256  # pixels whose moments are found together
TILE = 4096  # values of a program at a time: 32 of each thread
MOST_CHANNELS = 256
LEAST_CHANNELS = 16  # 32 bytes in half precision, the least that memory hands over
STRIPES = 64
WARPS = 4


class GroupNormSiLU(nn.Module):
    """In the place of a GroupNorm of a network whose own forward takes the SiLU for a module of its own."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, images: Tensor) -> Tensor:
        return normalized(images, self.norm, has_silu=True)


def normalized(images: Tensor, norm: nn.GroupNorm, *, has_silu: bool) -> Tensor:
    """images (N, C, H, W)."""
    return computed(OPERATION, images, norm.weight, norm.bias, norm.num_groups, norm.eps, has_silu)


def plain(images: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float, has_silu: bool) -> Tensor:
    found = F.group_norm(images, groups, weight, bias, epsilon)
    return F.silu(found) if has_silu else found


@torch.library.custom_op("synthclone::group_norm", mutates_args=())
def fused(images: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float, has_silu: bool) -> Tensor:
    images = images.contiguous(memory_format=torch.channels_last)
    count, channels, pixels = images.shape[0], images.shape[1], images.shape[2] * images.shape[3]
    at_once = min(channels & -channels, MOST_CHANNELS)
    stripe = min(STRIPE, power_of_two(pixels))
    tile = {"PIXELS": min(TILE // at_once, stripe), "CHANNELS": at_once, "num_warps": WARPS}
    parts, stripes = channels // at_once, -(-pixels // stripe)
    means, squares = images.new_empty((2, count, stripes, channels), dtype=torch.float32)
    scales, shifts = images.new_empty((2, count, channels), dtype=torch.float32)
    outputs = torch.empty_like(images)
    width, by_pixels = channels // groups, -(-pixels // tile["PIXELS"])
    moments, scale = programs().channel_moments, programs().channel_scales
    with unfit():
        moments[stripes * parts, count](images, means, squares, pixels, channels, STRIPE=stripe, **tile)
        scale[count, groups](
            means, squares, weight, bias, scales, shifts, pixels, channels, stripes, epsilon,
            STRIPE=stripe, STRIPES=STRIPES, WIDTH=width, LANES=power_of_two(width), num_warps=WARPS,
        )  # fmt: skip
        programs().scaled[by_pixels * parts, count](
            images, scales, shifts, outputs, pixels, channels, HAS_SILU=has_silu, **tile
        )
    return outputs


@fused.register_fake
def _(images: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float, has_silu: bool) -> Tensor:
    return torch.empty_like(images, memory_format=torch.channels_last)


def takes(images: Tensor, *_: object) -> bool:
    return images.is_floating_point() and images.itemsize <= 4 and images.shape[1] % LEAST_CHANNELS == 0


def power_of_two(number: int) -> int:
    """The least that is not below it."""
    return 1 << (number - 1).bit_length()


OPERATION = Operation("group_norm", plain, {"triton": fused}, takes)
