"""The crops of crops.py, one image at a time and in Pillow, from the same choices: what tests compare with."""

from shared.vision.images import normalised

from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from .crops import SOLARISE_FROM
from .draws import BRIGHTNESS, CONTRAST, HUE, SATURATION, CropDraws

ADJUST = {
    BRIGHTNESS: vision.adjust_brightness,
    CONTRAST: vision.adjust_contrast,
    SATURATION: vision.adjust_saturation,
    HUE: vision.adjust_hue,
}


def reference_crop(image: Tensor, draws: CropDraws, crop: int, place: int) -> Tensor:
    """(3, H, W) uint8, without padding, to crop number `crop` of image `place` of the batch: (3, S, S), normalised."""
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
    cropped = reference_colours(reference_resample(pillow, draws, crop, place), draws, crop, place)
    return normalised(vision.pil_to_tensor(cropped)[None])[0]


def reference_resample(image: Image.Image, draws: CropDraws, crop: int, place: int) -> Image.Image:
    top, left, height, width = (int(value) for value in draws.boxes[crop, place])
    side = [draws.recipe.size] * 2
    cropped = vision.resized_crop(image, top, left, height, width, side, interpolation=InterpolationMode.BICUBIC)
    upright: Image.Image = vision.horizontal_flip(cropped) if draws.flip[crop, place] else cropped
    return upright


def reference_colours(image: Image.Image, draws: CropDraws, crop: int, place: int) -> Image.Image:
    for operation in draws.orders[crop, place]:
        factor = float(draws.factors[crop, place, operation])
        if factor != (operation != HUE):
            image = ADJUST[int(operation)](image, factor)
    if draws.grayscale[crop, place]:
        image = vision.rgb_to_grayscale(image, num_output_channels=3)
    if draws.blur[crop, place] > 0:
        image = image.filter(ImageFilter.GaussianBlur(float(draws.blur[crop, place])))
    if draws.solarise[crop, place]:
        image = vision.solarize(image, SOLARISE_FROM)
    return image
