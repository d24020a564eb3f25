"""The real test sets, cut to the classes that an encoder knows."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from shared.vision.digits import DigitsSplit, test_digits
from shared.vision.images import normalised, squared
from shared.vision.networks import EncoderCard

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from shared.errors import Rejected
from shared.realsets import RealSet

from .batches import eval_batches, eval_loaders
from .decoding import EvalView, read_photo
from .listings import Listing
from .registered import open_set

READERS: dict[str, Callable[[], DigitsSplit]] = {"digits": test_digits}
BATCH_SIZE = 128


class Benchmark(NamedTuple):
    """`class_ids` are tested, in the order of `labels` (N,) int64; `batches` gives (B, 3, S, S) normalised float32.

    `columns` are the encoder's outputs for these classes: where it knows more, the others cannot win, as ImageNet-R
    and -A are tested (Hendrycks et al. 2021). `photo` reads one image again, whole and as it is, by its position.
    """

    known: RealSet
    class_ids: tuple[str, ...]
    columns: tuple[int, ...]
    labels: Tensor
    batches: Callable[[], Iterator[Tensor]]
    photo: Callable[[int], Image.Image]


def open_benchmark(known: RealSet, card: EncoderCard, *, cache_dir: Path) -> Benchmark:
    """Raises Rejected where encoder and set have no class in common."""
    class_ids = common_classes(known, card)
    columns = tuple(card.class_ids.index(class_id) for class_id in class_ids)
    if known.place is None:
        split = restricted(READERS[known.name](), known, class_ids)
        labels, batches = split.labels, partial(array_batches, split.images, card)
        photo = partial(array_photo, split.images)
    else:
        listing = open_set(known, cache_dir=cache_dir).restricted_to(class_ids)
        view = EvalView(card.image_size, known.crop_pct, mean=card.mean, std=card.std)
        labels, batches = listing.labels, partial(photo_batches, listing, view)
        photo = partial(listed_photo, listing)
    return Benchmark(known, class_ids, columns, torch.from_numpy(labels), batches, photo)


def common_classes(known: RealSet, card: EncoderCard) -> tuple[str, ...]:
    learnt = set(card.class_ids)
    common = tuple(class_id for class_id in known.class_ids if class_id in learnt)
    if not common:
        raise Rejected(
            f"{card.training} was trained on {listed(card.class_ids)} and {known.name} has {listed(known.class_ids)}: "
            "no class in common; evaluate it on another set"
        )
    return common


def listed(class_ids: tuple[str, ...]) -> str:
    shown = ", ".join(class_ids[:5])
    return f"{shown} and {len(class_ids) - 5} more" if len(class_ids) > 5 else shown


def restricted(split: DigitsSplit, known: RealSet, class_ids: tuple[str, ...]) -> DigitsSplit:
    position = np.array([class_ids.index(each) if each in class_ids else -1 for each in known.class_ids])
    labels = position[split.labels]
    return DigitsSplit(split.images[labels >= 0], labels[labels >= 0])


def array_batches(images: npt.NDArray[np.uint8], card: EncoderCard) -> Iterator[Tensor]:
    """Of (N, H, W, 3)."""
    for start in range(0, len(images), BATCH_SIZE):
        batch = torch.from_numpy(images[start : start + BATCH_SIZE]).permute(0, 3, 1, 2)
        yield normalised(torch.stack([squared(image, card.image_size) for image in batch]), card.mean, card.std)


def photo_batches(listing: Listing, view: EvalView) -> Iterator[Tensor]:
    workers = eval_loaders(view, BATCH_SIZE)
    for images, _ in eval_batches(listing, view, batch_size=BATCH_SIZE, workers=workers):
        yield images


def array_photo(images: npt.NDArray[np.uint8], index: int) -> Image.Image:
    return Image.fromarray(images[index])


def listed_photo(listing: Listing, index: int) -> Image.Image:
    return read_photo(listing.entry(index))
