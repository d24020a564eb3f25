"""Which image is seen at which position of a training: an endless stream of whole, freshly shuffled epochs.

A position fixes the image and its augmentation, so a training resumes in the middle of an epoch exactly, and the
ranks of a training share every batch without overlap.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augment import augmented
from .images import MemoryImages, TrainingImages

MOST_LOADERS = 8


class Stream(NamedTuple):
    """The whole training's data: `batch_size` counts the images of all ranks together."""

    source: TrainingImages
    seed: int
    image_size: int
    flip: bool
    batch_size: int
    steps: int


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Every index once, in an order of this epoch's own."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class Positions(Dataset[tuple[Tensor, int]]):
    """Augmented image and label by position in the stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        stream = self._stream
        count = len(stream.source.labels)
        epoch, offset = divmod(position, count)
        index = int(epoch_order(count, stream.seed, epoch)[offset])
        generator = np.random.default_rng([stream.seed, epoch, index])
        image = augmented(stream.source.image(index), generator, size=stream.image_size, flip=stream.flip)
        return image, int(stream.source.labels[index])


@dataclass(frozen=True)
class StepPositions:
    """The positions of each remaining step that one rank takes."""

    stream: Stream
    start: int
    rank: int
    ranks: int

    def __iter__(self) -> Iterator[list[int]]:
        size = self.stream.batch_size
        for step in range(self.start, self.stream.steps):
            yield list(range(step * size + self.rank, (step + 1) * size, self.ranks))


def batches(stream: Stream, *, start: int, rank: int, ranks: int) -> DataLoader[tuple[Tensor, int]]:
    """From step `start` on: images (B, 3, S, S) uint8, labels (B,) int64."""
    loaders = 0 if isinstance(stream.source, MemoryImages) else min(MOST_LOADERS, (os.cpu_count() or 1) // ranks)
    return DataLoader(
        Positions(stream),
        batch_sampler=StepPositions(stream, start, rank, ranks),
        num_workers=loaders,
        worker_init_fn=end_on_signal,
    )


def end_on_signal(_worker: int) -> None:
    # Forked from a process that answers SIGTERM with a checkpoint; a loader has nothing to save.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
