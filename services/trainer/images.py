"""Training images by index: in memory where they fit, else read one by one from the cached shards."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MEMORY_BYTES = 1_000_000_000


class TrainingImages(Protocol):
    """`labels` (N,) int64; `image(index)` is (3, H, W) uint8."""

    @property
    def labels(self) -> npt.NDArray[np.int64]: ...

    def image(self, index: int) -> Tensor: ...


class MemoryImages(NamedTuple):
    labels: npt.NDArray[np.int64]
    images: Sequence[Tensor]

    def image(self, index: int) -> Tensor:
        return self.images[index]


class JoinedImages(NamedTuple):
    """Several sets as one, in their order."""

    labels: npt.NDArray[np.int64]
    sets: tuple[TrainingImages, ...]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, sets: tuple[TrainingImages, ...]) -> "JoinedImages":
        starts = np.cumsum([0] + [len(each.labels) for each in sets])
        return cls(np.concatenate([each.labels for each in sets]), sets, starts)

    def image(self, index: int) -> Tensor:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sets[number].image(index - int(self.starts[number]))


def in_memory(source: TrainingImages) -> TrainingImages:
    """Decoded once when all images together stay small, as judged by the first."""
    count = len(source.labels)
    if source.image(0).numel() * count > MEMORY_BYTES:
        return source
    return MemoryImages(source.labels, [source.image(index) for index in range(count)])


def from_arrays(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> MemoryImages:
    """From (N, H, W, 3)."""
    return MemoryImages(labels, list(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()))
