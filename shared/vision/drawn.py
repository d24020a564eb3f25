"""Images of our own shards by index."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from shared.errors import Rejected
from shared.shards import HEAD_BYTES, read_index
from shared.stored.manifest import ManifestShard

from .images import decode


class ShardImages(NamedTuple):
    """Arrays instead of a tuple per image: they hold millions of rows and are shared with data loader processes."""

    labels: npt.NDArray[np.int64]
    files: Sequence[Path]
    places: npt.NDArray[np.int64]  # (N, 3): file number, offset and length of the JPEG in bytes

    def image(self, index: int) -> Tensor:
        number, offset, length = (int(value) for value in self.places[index])
        with self.files[number].open("rb") as file:
            file.seek(offset)
            return decode(file.read(length))


def index_shards(files: Sequence[Path], shards: Sequence[ManifestShard], label_of: dict[str, int]) -> ShardImages:
    """The slots that the dataset takes of each shard, in the order given."""
    rows, labels = [], []
    for number, (file, shard) in enumerate(zip(files, shards, strict=True)):
        with file.open("rb") as opened:
            places = read_index(opened.read(HEAD_BYTES))
        taken = [place for slot, place in places.items() if slot < shard.start + shard.take]
        rows += [(number, place.jpeg_offset, place.jpeg_bytes) for place in taken]
        labels += [label_of[shard.class_id]] * len(taken)
    if not rows:
        raise Rejected("the datasets have no accepted image; train on a dataset that succeeded")
    return ShardImages(np.array(labels, dtype=np.int64), files, np.array(rows, dtype=np.int64))
