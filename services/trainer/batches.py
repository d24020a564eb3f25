"""Which image is seen at which position of a training: an endless stream of whole, freshly shuffled epochs.

A position fixes the image and its augmentation, so a training resumes in the middle of an epoch exactly, and the
ranks of a training share every batch without overlap.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from shared.vision.loaders import PREFETCHED, loader_count

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.recipes import TrainingRecipe

from .augment import augmented
from .crops import padded
from .draws import CropDraws, draw_crops
from .images import MemoryImages, TrainingImages

SAMPLED = 8


class Part(NamedTuple):
    """Images that stand together in the source; `share` of each epoch, None where nothing was said."""

    images: int
    share: float | None = None


class Stream(NamedTuple):
    """The whole training's data: the recipe's batch counts the images of all ranks together."""

    source: TrainingImages
    seed: int
    image_size: int
    recipe: TrainingRecipe
    steps: int
    parts: tuple[Part, ...]

    def epoch(self, step: int) -> int:
        """In which the step, the first being 0, begins."""
        return step * self.recipe.batch_size // len(self.source.labels)

    def numbers(self, step: int) -> list[int]:
        """Of the images of a step, over all ranks."""
        first = step * self.recipe.batch_size
        return [self.place(position)[1] for position in range(first, first + self.recipe.batch_size)]

    def place(self, position: int) -> tuple[int, int]:
        """Epoch, and number of the image in the source."""
        epoch, offset = divmod(position, len(self.source.labels))
        return epoch, int(epoch_order(self.parts, self.seed, epoch)[offset])


class Sample(NamedTuple):
    """(3, H, W) uint8, whole where crops are made of it later; what is drawn for it depends on `epoch` and `number`."""

    image: Tensor
    label: int
    epoch: int
    number: int


class Batch(NamedTuple):
    """images (B, 3, H, W) uint8, padded where their sizes differ; labels (B,) int64; `draws` say what crops are made
    of them on the device, none where the images are ready."""

    images: Tensor
    labels: Tensor
    draws: tuple[CropDraws, ...]


@lru_cache(maxsize=2)
def epoch_order(parts: tuple[Part, ...], seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """As many numbers of images as all parts have together, in an order of this epoch's own.

    Of a part without a share every image once; of one with a share as many as it says, beginning where the epoch
    before ended, so that every image comes as often as any other of its part.
    """
    total = sum(part.images for part in parts)
    if all(part.share is None for part in parts):
        return np.random.default_rng([seed, epoch]).permutation(total)
    # Divided by their sum: what a user rounds, as 0.333, must still fill the epoch.
    shares = np.cumsum([0.0] + [part.share or 0.0 for part in parts])
    bounds = np.rint(shares / shares[-1] * total).astype(np.int64)
    starts = np.cumsum([0] + [part.images for part in parts])
    taken = [
        starts[number] + of_part(part.images, range(epoch * count, (epoch + 1) * count), [seed, number])
        for number, (part, count) in enumerate(zip(parts, np.diff(bounds).tolist(), strict=True))
    ]
    return np.random.default_rng([seed, epoch]).permutation(np.concatenate(taken))


def of_part(images: int, places: range, seeds: list[int]) -> npt.NDArray[np.int64]:
    """These places of an endless row of passes over a part, each pass in an order of its own."""
    passes = range(places.start // images, -(-places.stop // images))
    row = [np.random.default_rng([*seeds, turn]).permutation(images) for turn in passes]
    begin = places.start - passes.start * images
    return np.concatenate([*row, np.empty(0, np.int64)])[begin : begin + len(places)]


class Positions(Dataset[Sample]):
    """Samples by position in the stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getitem__(self, position: int) -> Sample:
        stream, recipe = self._stream, self._stream.recipe
        epoch, index = stream.place(position)
        image = stream.source.image(index)
        if not recipe.crops:
            generator = np.random.default_rng([stream.seed, epoch, index])
            image = augmented(image, generator, size=stream.image_size, flip=recipe.flip)
        return Sample(image, int(stream.source.labels[index]), epoch, index)


@dataclass(frozen=True)
class Collate:
    """Samples to a batch. What is drawn for an image does not depend on the others of its batch."""

    recipe: TrainingRecipe
    seed: int

    def __call__(self, samples: list[Sample]) -> Batch:
        images, sizes = padded([sample.image for sample in samples])
        labels = torch.tensor([sample.label for sample in samples])
        if not self.recipe.crops:
            return Batch(images, labels, ())
        epochs, indices = np.array([(sample.epoch, sample.number) for sample in samples]).T
        draws = draw_crops(self.recipe.crops, seed=self.seed, epochs=epochs, indices=indices, sizes=sizes)
        return Batch(images, labels, draws)


@dataclass(frozen=True)
class StepPositions:
    """The positions of each remaining step that one rank takes, `accumulate` parts a step."""

    stream: Stream
    start: int
    rank: int
    ranks: int

    def __iter__(self) -> Iterator[list[int]]:
        size, parts = self.stream.recipe.batch_size, self.stream.recipe.accumulate
        images = size // self.ranks // parts
        for step in range(self.start, self.stream.steps):
            mine = list(range(step * size + self.rank, (step + 1) * size, self.ranks))
            yield from (mine[part * images : (part + 1) * images] for part in range(parts))


def batches(
    stream: Stream, *, start: int, rank: int, ranks: int, neighbours: int = 1, pinned: bool = False
) -> DataLoader[Batch]:
    """From step `start` on, `accumulate` of them a step; `neighbours` ranks share this machine.

    Pinned memory is copied to a GPU while that computes.
    """
    in_memory = isinstance(stream.source, MemoryImages)
    part_bytes = batch_bytes(stream) // ranks // stream.recipe.accumulate
    loaders = 0 if in_memory else loader_count(part_bytes, ranks=neighbours)
    return DataLoader(
        Positions(stream),  # type: ignore[arg-type]  # torch's loader knows no type of batch but the sample's
        batch_sampler=StepPositions(stream, start, rank, ranks),
        collate_fn=Collate(stream.recipe, stream.seed),
        num_workers=loaders,
        prefetch_factor=PREFETCHED if loaders else None,
        pin_memory=pinned,
        worker_init_fn=end_on_signal,
    )


def batch_bytes(stream: Stream) -> int:
    """About; where images are padded to the largest of a batch, that of the first few images squared."""
    if not stream.recipe.crops:
        return stream.recipe.batch_size * 3 * stream.image_size**2
    sides = [max(stream.source.image(index).shape[1:]) for index in range(min(SAMPLED, len(stream.source.labels)))]
    return stream.recipe.batch_size * 3 * max(sides) ** 2


def end_on_signal(_worker: int) -> None:
    # Forked from a process that answers SIGTERM with a checkpoint; a loader has nothing to save.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
