"""Images as networks take them: square, normalised as all timm networks expect by default."""

import io
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from shared.errors import CorruptObject

# ImageNet's channel means and deviations, also used for synthetic images so that encoders stay interchangeable.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def decode(data: bytes) -> Tensor:
    """(3, H, W) uint8."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    except (UnidentifiedImageError, OSError) as error:
        raise CorruptObject(f"an image of {len(data)} bytes cannot be decoded: {error}") from error


def normalised(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """(N, 3, H, W) uint8 to float32."""
    means = torch.tensor(mean, device=images.device).view(3, 1, 1)
    deviations = torch.tensor(std, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - means) / deviations


def squared(image: Tensor, size: int) -> Tensor:
    """Short side to `size` (bicubic), then the centre square: (3, H, W) uint8 to (3, size, size)."""
    height, width = image.shape[1:]
    short = min(height, width)
    if short != size:
        image = resized(image, max(size, round(height * size / short)), max(size, round(width * size / short)))
    top, left = (image.shape[1] - size) // 2, (image.shape[2] - size) // 2
    return image[:, top : top + size, left : left + size]


def resized(image: Tensor, height: int, width: int) -> Tensor:
    large = F.interpolate(image[None].float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    return large[0].round().clamp(0, 255).to(torch.uint8)
