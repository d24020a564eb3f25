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
STRIPES = 32
WARPS = 4


def normalized(images: Tensor, norm: nn.GroupNorm, *, has_silu: bool) -> Tensor:
    """images (N, C, H, W), and SiLU of them if wanted."""
    return computed(OPERATION, images, norm.weight, norm.bias, norm.num_groups, norm.eps, has_silu)


def convolved(images: Tensor, kernel: Tensor, offset: Tensor, norm: nn.GroupNorm) -> Tensor:
    """images (N, D, H, W) by a kernel (C, D, 3, 3) and offsets (C,), normalised, and SiLU of that."""
    return computed(AFTER_CONVOLUTION, images, kernel, offset, norm.weight, norm.bias, norm.num_groups, norm.eps)


def plain(images: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float, has_silu: bool) -> Tensor:
    found = F.group_norm(images, groups, weight, bias, epsilon)
    return F.silu(found, inplace=True) if has_silu else found


def plain_convolved(
    images: Tensor, kernel: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
) -> Tensor:
    return plain(F.conv2d(images, kernel, offset, padding=1), weight, bias, groups, epsilon, True)


def fused_convolved(
    images: Tensor, kernel: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
) -> Tensor:
    """The convolution's own offsets would be a pass over its output."""
    found: Tensor = fused(F.conv2d(images, kernel, padding=1), weight, bias, groups, epsilon, True, offset)
    return found


@torch.library.custom_op("synthclone::group_norm", mutates_args=())
def fused(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    epsilon: float,
    has_silu: bool,
    offset: Tensor | None = None,
) -> Tensor:
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
    offsets = weight if offset is None else offset
    moments, scale = programs().channel_moments, programs().channel_scales
    with unfit():
        moments[stripes * parts, count](images, means, squares, pixels, channels, STRIPE=stripe, **tile)
        scale[count, groups](
            means, squares, offsets, weight, bias, scales, shifts, pixels, channels, stripes, epsilon,
            HAS_OFFSETS=offset is not None, STRIPE=stripe, STRIPES=STRIPES, WIDTH=width, LANES=power_of_two(width),
            num_warps=WARPS,
        )  # fmt: skip
        programs().scaled[by_pixels * parts, count](
            images, scales, shifts, outputs, pixels, channels, HAS_SILU=has_silu, **tile
        )
    return outputs


@fused.register_fake
def _(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    epsilon: float,
    has_silu: bool,
    offset: Tensor | None = None,
) -> Tensor:
    return torch.empty_like(images, memory_format=torch.channels_last)


def takes(images: Tensor, *_: object) -> bool:
    return fits(images.dtype, images.shape[1])


def takes_convolved(images: Tensor, kernel: Tensor, *_: object) -> bool:
    return fits(images.dtype, kernel.shape[0])


def fits(dtype: torch.dtype, channels: int) -> bool:
    return dtype.itemsize <= 4 and channels % LEAST_CHANNELS == 0


def doubled(images: Tensor) -> Tensor:
    """In the place of a residual layer's sum."""
    return images + images


def power_of_two(number: int) -> int:
    """The least that is not below it."""
    return 1 << (number - 1).bit_length()


OPERATION = Operation("group_norm", plain, {"triton": fused}, takes, before=doubled)
AFTER_CONVOLUTION = Operation("conv_group_norm", plain_convolved, {"triton": fused_convolved}, takes_convolved)
