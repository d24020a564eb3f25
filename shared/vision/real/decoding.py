"""From a photo's bytes to pixels, exactly as timm's validation does it: its numbers are what ours stand beside.

What PIL's convert("RGB") gives is taken as it is: grey levels three times, palettes looked up, transparency dropped
without a background, CMYK by complement without a colour profile, 16-bit grey clipped at 255. An EXIF orientation is
not applied, as timm and torchvision do not apply it.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

from shared.vision.images import MEAN, STD

import numpy as np
import numpy.typing as npt
import timm.data
import torch
from PIL import Image
from torch import Tensor

from shared.errors import CorruptObject

from .listings import Entry, Listing, read_bytes

# What PIL's readers raise on damaged files: truncation and unknown formats are OSErrors, the others came up when single
# bytes of TIFF, PNG and GIF files were changed.
DAMAGE = (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)


class EvalView(NamedTuple):
    """How an image is shown: the short side to size / crop_pct, then the centre square of `size` pixels."""

    size: int = 224
    crop_pct: float = 0.875  # 224 of 256
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


def open_photo(data: bytes, *, name: str) -> Image.Image:
    """RGB, wholly decoded; raises CorruptObject naming the image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except DAMAGE as error:
        raise CorruptObject(f"{name}, {len(data)} bytes, cannot be decoded: {error}") from error


def decode_photo(data: bytes, *, name: str) -> Tensor:
    """(3, H, W) uint8; raises CorruptObject naming the image."""
    return torch.from_numpy(np.array(open_photo(data, name=name))).permute(2, 0, 1).contiguous()


def read_photo(entry: Entry) -> Image.Image:
    return open_photo(read_bytes(entry), name=f"{entry.name} in {entry.path}")


def eval_pixels(view: EvalView) -> Callable[[Image.Image], Tensor]:
    """timm's own transform: RGB photo to (3, S, S) float32, normalised."""
    transform: Callable[[Image.Image], Tensor] = timm.data.create_transform(
        input_size=view.size,
        is_training=False,
        interpolation=view.interpolation,
        crop_pct=view.crop_pct,
        mean=view.mean,
        std=view.std,
    )
    return transform


# As large as drawn images: larger photos would only be shrunk again by the crops, and a batch is padded to its largest.
MOST_SHORT, MOST_LONG = 512, 768


def shrunk(photo: Image.Image) -> Image.Image:
    """With its aspect kept; no photo becomes larger."""
    scale = min(MOST_SHORT / min(photo.size), MOST_LONG / max(photo.size))
    if scale >= 1:
        return photo
    width, height = (max(1, round(side * scale)) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.BICUBIC)


class Photos(NamedTuple):
    """A listing's images by index, as trainings read them."""

    listing: Listing

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return self.listing.labels

    def image(self, index: int) -> Tensor:
        """(3, H, W) uint8."""
        entry = self.listing.entry(index)
        photo = shrunk(read_photo(entry))
        return torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()
