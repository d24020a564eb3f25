"""All crops of a batch on the device that trains, from the choices of draws.py: a few large operations, no host sync.

Sampling is Pillow's: bicubic with a = -0.5, widened by the scale when it shrinks (that is the antialiasing), pixels
outside the box never read, 8 bits after each of the two passes (across first; Pillow takes some tall boxes the other
way round, which shows in the rounding alone). Boxes are upright, so each pass is a product with a matrix of mostly
zero weights. Brightness, contrast, saturation and grey round as Pillow does. Hue is computed in real numbers, where
Pillow's HSV has 8 bits, and blur with a true Gaussian, where Pillow approximates it by three box filters;
reference_crops.py is the same in Pillow, and tests bound the differences.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from shared.vision.images import MEAN, STD

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .draws import CONTRAST, HUE, SATURATION, CropDraws, Flags

Rows = npt.NDArray[np.intp]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"
BLUR_DEVIATIONS = 3  # a Gaussian's weight beyond three deviations is 0.3 %
SOLARISE_FROM = 128


def padded(images: Sequence[Tensor]) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Images (3, H, W) uint8 of any sizes as one batch, black below and to the right, with sizes (B, 2)."""
    sizes = np.array([image.shape[1:] for image in images], dtype=np.int64)
    height, width = sizes.max(axis=0)
    if (sizes == (height, width)).all():
        return torch.stack(list(images)), sizes
    batch = torch.zeros(len(images), 3, int(height), int(width), dtype=torch.uint8)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch, sizes


def random_crops(images: Tensor, draws: CropDraws, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, 3, H, W) uint8 to (count * B, 3, S, S), normalised: the first crop of every image, then the second.

    Images may be padded: boxes lie inside each image's own size, and nothing outside its box reaches a crop.
    """
    # Half precision holds the 8 bits of a pixel and 11 of each weight, and GPUs have tensor cores for it.
    arithmetic = torch.float16 if images.is_cuda else torch.float32
    with torch.autocast(images.device.type, enabled=False):
        crops = jittered(resampled(images, draws, arithmetic), draws)
        crops = changed(crops, draws.grayscale, greyed)
        crops = changed(crops, draws.blur > 0, partial(blurred, draws=draws))
        crops = changed(crops, draws.solarise, solarised)
        mean, std = (constant(values, images.device).view(3, 1, 1) for values in (MEAN, STD))
        return ((crops / 255 - mean) / std).to(dtype)


def resampled(images: Tensor, draws: CropDraws, arithmetic: torch.dtype) -> Tensor:
    """(count * B, 3, S, S) float32 of whole numbers 0..255."""
    (count, batch), size = draws.boxes.shape[:2], draws.recipe.size
    height, width = images.shape[2:]
    top, left, rows, columns = draws.boxes.transpose(2, 1, 0)  # each (B, count)
    across = sampling(left, columns, draws.flip.T, size=size, extent=width, device=images.device).to(arithmetic)
    down = sampling(top, rows, np.zeros_like(draws.flip.T), size=size, extent=height, device=images.device)
    # All crops of an image share one product, so that the image is read once: (B, 3 H, W) @ (B, W, count S).
    wide = images.to(arithmetic).flatten(1, 2) @ across.flatten(1, 2).transpose(1, 2)
    wide = eight_bits(wide).view(batch, 3, height, count, size).permute(3, 0, 2, 1, 4)
    wide = wide.reshape(count * batch, height, 3 * size)
    square = down.to(arithmetic).transpose(0, 1).flatten(0, 1) @ wide
    return eight_bits(square.float()).view(count * batch, size, 3, size).transpose(1, 2).contiguous()


def sampling(
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    mirrored: Flags,
    *,
    size: int,
    extent: int,
    device: torch.device,
) -> Tensor:
    """(..., size, extent): the weight of each of `extent` pixels in each of the `size` that the box is resized to."""
    taps = 2 + math.ceil(4 * max(1, int(lengths.max()) / size))
    start, length = (uploaded(values, device)[..., None] for values in (starts, lengths))
    scale = length / size
    spread = scale.clamp(min=1)
    output = torch.arange(size, device=device)
    output = torch.where(uploaded(mirrored, device)[..., None], size - 1 - output, output)
    centre = (output + 0.5) * scale
    pixels = (centre - 2 * spread).floor()[..., None] + torch.arange(taps, device=device)
    inside = (pixels >= 0) & (pixels < length[..., None])
    weights = cubic((pixels + 0.5 - centre[..., None]) / spread[..., None]) * inside
    weights = weights / weights.sum(dim=-1, keepdim=True)
    # Taps outside the box fall on pixels of the image with a weight of zero.
    places = (pixels.long() + start[..., None]).clamp(0, extent - 1)
    return torch.zeros(*centre.shape, extent, device=device).scatter_add_(-1, places, weights)


def cubic(distance: Tensor) -> Tensor:
    """The convolution kernel of Keys (1981) with a = -0.5."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def eight_bits(crops: Tensor) -> Tensor:
    return crops.round().clamp(0, 255)


def jittered(crops: Tensor, draws: CropDraws) -> Tensor:
    """Brightness, contrast, saturation and hue in the order of each crop."""
    orders, factors = draws.orders.reshape(-1, 4), draws.factors.reshape(-1, 4)
    for operations in orders.T:
        hue = operations == HUE
        factor = factors[np.arange(len(factors)), operations]
        crops = blended(crops, operations, np.where(hue, np.float32(1), factor))
        crops = changed(crops, hue & (factors[:, HUE] != 0), partial(turned, turns=factors[:, HUE]))
    return crops


def blended(crops: Tensor, operations: npt.NDArray[np.int8], factors: npt.NDArray[np.float32]) -> Tensor:
    """Away from black, from the mean grey or from each pixel's grey, by operation; a factor of 1 changes nothing."""
    operation, factor = (uploaded(values, crops.device).view(-1, 1, 1, 1) for values in (operations, factors))
    grey = luma(crops).round()
    mean = (grey.mean(dim=(2, 3), keepdim=True) + 0.5).floor()
    origin = torch.where(operation == SATURATION, grey, torch.where(operation == CONTRAST, mean, 0))
    return (origin + factor * (crops - origin)).clamp(0, 255).floor()


def luma(crops: Tensor) -> Tensor:
    """(N, 1, S, S)."""
    return (crops * constant(LUMA, crops.device).view(3, 1, 1)).sum(dim=1, keepdim=True)


def turned(crops: Tensor, rows: Rows, *, turns: npt.NDArray[np.float32]) -> Tensor:
    """Hue changed by turns[rows] of the full circle, as HSV has it; whole numbers again."""
    turn = uploaded(turns[rows], crops.device).view(-1, 1, 1, 1)
    highest, lowest = crops.amax(dim=1, keepdim=True), crops.amin(dim=1, keepdim=True)
    chroma = highest - lowest
    red, green, blue = (crops / chroma.clamp(min=1)).split(1, dim=1)
    peak = crops.argmax(dim=1, keepdim=True)
    sixths = torch.where(peak == 0, green - blue, torch.where(peak == 1, 2 + blue - red, 4 + red - green))
    # Smith 1978: each channel falls from the highest to the lowest value with its distance from its own hue.
    place = (sixths + 6 * turn + constant((5, 3, 1), crops.device).view(3, 1, 1)) % 6
    return (highest - chroma * torch.minimum(place, 4 - place).clamp(0, 1)).round()


def blurred(crops: Tensor, rows: Rows, *, draws: CropDraws) -> Tensor:
    """By a Gaussian of each crop's own deviation; the edge pixels go on outside."""
    radius = math.ceil(BLUR_DEVIATIONS * draws.recipe.blur_radius[1])
    deviation = uploaded(draws.blur.reshape(-1)[rows], crops.device)[:, None]
    offsets = torch.arange(-radius, radius + 1, device=crops.device)
    weights = torch.softmax(-0.5 * (offsets / deviation) ** 2, dim=1)
    size = draws.recipe.size
    along = (weights @ shifts(size, radius, crops.device)).view(-1, 1, size, size)
    return along @ crops @ along.transpose(2, 3)


def greyed(crops: Tensor, _: Rows) -> Tensor:
    return luma(crops).round().expand(-1, 3, -1, -1)


def solarised(crops: Tensor, _: Rows) -> Tensor:
    return torch.where(crops < SOLARISE_FROM, crops, 255 - crops)


@lru_cache(maxsize=8)
def shifts(size: int, radius: int, device: torch.device) -> Tensor:
    """(2 radius + 1, size * size): the matrix that takes each pixel from so many places before it to after it."""
    places = torch.arange(size) + torch.arange(-radius, radius + 1)[:, None]
    return F.one_hot(places.clamp(0, size - 1), size).float().flatten(1).to(device)


def changed(crops: Tensor, chosen: Flags, change: Callable[[Tensor, Rows], Tensor]) -> Tensor:
    """`change` on the chosen crops alone, in place; which these are the host knows without asking the device."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return crops
    places = uploaded(rows, crops.device)
    return crops.index_copy_(0, places, change(crops.index_select(0, places), rows))


def uploaded(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy from pageable memory would wait for all earlier work of the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@lru_cache(maxsize=16)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
