"""Every random choice of every crop, drawn from (seed, epoch, index) alone: no batch, rank or device changes it.

The numbers come from a hash of a counter instead of a generator per image, so that a whole batch is a few array
operations; a field of a crop keeps its numbers whatever the other fields draw.
"""

from collections.abc import Sequence
from enum import IntEnum
from itertools import permutations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared.recipes import CropRecipe

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Sizes = npt.NDArray[np.int64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
TRIES = 10
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = np.array(list(permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE))), dtype=np.int8)


class Field(IntEnum):
    """The place of each choice among a crop's numbers; BOX is followed by an area and an aspect for every try."""

    TOP, LEFT, FLIP, JITTER, ORDER, GRAYSCALE, BLUR, BLUR_RADIUS, SOLARISE = range(9)
    FACTOR = 9
    BOX = FACTOR + 4


class CropDraws(NamedTuple):
    """The choices of one CropRecipe for B images; every array starts with (count, B).

    boxes (count, B, 4) are top, left, height and width in pixels of the image; factors and orders (count, B, 4) go by
    BRIGHTNESS, CONTRAST, SATURATION and HUE, 1, 1, 1 and 0 where there is no jitter; blur is the deviation in pixels
    of the crop, 0 where there is none.
    """

    recipe: CropRecipe
    boxes: npt.NDArray[np.int64]
    flip: Flags
    factors: npt.NDArray[np.float32]
    orders: npt.NDArray[np.int8]
    grayscale: Flags
    blur: npt.NDArray[np.float32]
    solarise: Flags


def draw_crops(
    recipes: Sequence[CropRecipe], *, seed: int, epochs: Sizes, indices: Sizes, sizes: Sizes
) -> tuple[CropDraws, ...]:
    """For B images of epochs (B,), indices (B,) in the source, and sizes (B, 2): height and width in pixels."""
    images = hashed(hashed(hashed(np.zeros(1, np.uint64), seed), epochs), indices)
    crops = np.arange(sum(recipe.count for recipe in recipes))[:, None]
    ends = np.cumsum([recipe.count for recipe in recipes])[:-1]
    keys = np.split(hashed(images, crops), ends)
    return tuple(draw_recipe(recipe, part, sizes) for recipe, part in zip(recipes, keys, strict=True))


def draw_recipe(recipe: CropRecipe, keys: Keys, sizes: Sizes) -> CropDraws:
    jitter = uniform(keys, Field.JITTER) < recipe.jitter_probability
    blur = uniform(keys, Field.BLUR) < recipe.blur
    return CropDraws(
        recipe=recipe,
        boxes=draw_boxes(recipe, keys, sizes),
        flip=uniform(keys, Field.FLIP) < recipe.flip,
        factors=draw_factors(recipe, keys, jitter),
        orders=ORDERS[whole(uniform(keys, Field.ORDER), len(ORDERS))],
        grayscale=uniform(keys, Field.GRAYSCALE) < recipe.grayscale,
        blur=np.where(blur, between(uniform(keys, Field.BLUR_RADIUS), recipe.blur_radius), 0).astype(np.float32),
        solarise=uniform(keys, Field.SOLARISE) < recipe.solarise,
    )


def draw_factors(recipe: CropRecipe, keys: Keys, jitter: Flags) -> npt.NDArray[np.float32]:
    factors = np.empty((*keys.shape, 4), np.float32)
    for operation, strength in enumerate(recipe.jitter):
        centre = 0.0 if operation == HUE else 1.0
        low = -strength if operation == HUE else max(0.0, 1 - strength)
        drawn = between(uniform(keys, Field.FACTOR + operation), (low, centre + strength))
        factors[..., operation] = np.where(jitter, drawn, centre)
    return factors


def draw_boxes(recipe: CropRecipe, keys: Keys, sizes: Sizes) -> npt.NDArray[np.int64]:
    """(count, B, 4): a part of the image by area and aspect (Szegedy et al. 2015, section 6).

    As torchvision's RandomResizedCrop: the first of ten tries that fits, else the largest centred box of an aspect
    that is allowed.
    """
    heights, widths = (np.broadcast_to(side, keys.shape).ravel() for side in sizes.T)
    rows, columns = largest_boxes(recipe, heights, widths)
    tops, lefts = (heights - rows) // 2, (widths - columns) // 2
    flat = keys.ravel()
    pending = np.arange(len(flat))
    for attempt in range(TRIES):
        row, column = tried_boxes(recipe, flat[pending], heights[pending] * widths[pending], attempt)
        fits = (row > 0) & (row <= heights[pending]) & (column > 0) & (column <= widths[pending])
        chosen = pending[fits]
        rows[chosen], columns[chosen] = row[fits], column[fits]
        tops[chosen] = whole(uniform(flat[chosen], Field.TOP), heights[chosen] - rows[chosen] + 1)
        lefts[chosen] = whole(uniform(flat[chosen], Field.LEFT), widths[chosen] - columns[chosen] + 1)
        pending = pending[~fits]
        if not len(pending):
            break
    return np.stack((tops, lefts, rows, columns), axis=-1).reshape(*keys.shape, 4)


def tried_boxes(recipe: CropRecipe, keys: Keys, areas: Sizes, attempt: int) -> tuple[Sizes, Sizes]:
    """Rows and columns of one try, which need not fit."""
    area = areas * between(uniform(keys, Field.BOX + 2 * attempt), recipe.scale)
    low, high = recipe.aspect
    aspect = np.exp(between(uniform(keys, Field.BOX + 2 * attempt + 1), (np.log(low), np.log(high))))
    return np.rint(np.sqrt(area / aspect)).astype(np.int64), np.rint(np.sqrt(area * aspect)).astype(np.int64)


def largest_boxes(recipe: CropRecipe, heights: Sizes, widths: Sizes) -> tuple[Sizes, Sizes]:
    low, high = recipe.aspect
    rows = np.minimum(heights, np.rint(widths / low)).astype(np.int64)
    columns = np.minimum(widths, np.rint(heights * high)).astype(np.int64)
    return np.maximum(rows, 1), np.maximum(columns, 1)


def hashed(keys: Keys, numbers: int | npt.NDArray[np.int64]) -> Keys:
    """Number `numbers` of the sequence that splitmix64 makes from each key (Steele, Lea and Flood 2014)."""
    # One dimension at least: arrays wrap around silently, as they must here, where scalars warn.
    values = keys + (np.array(numbers, dtype=np.uint64, ndmin=1) + np.uint64(1)) * GOLDEN
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = values ^ (values >> np.uint64(31))
    return mixed


def uniform(keys: Keys, field: int) -> Floats:
    """In [0, 1), with the 53 bits that a double has."""
    return (hashed(keys, field) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def between(values: Floats, limits: tuple[float, float]) -> Floats:
    return limits[0] + (limits[1] - limits[0]) * values


def whole(values: Floats, counts: int | Sizes) -> Sizes:
    """0 to counts - 1."""
    return (values * counts).astype(np.int64)
