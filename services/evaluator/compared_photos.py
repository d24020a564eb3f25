"""The two sides of a comparison as photos with names: a sample of a dataset's images, and a whole real set."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from shared.vision.digits import DigitsSplit, test_digits, train_digits
from shared.vision.real.decoding import open_photo
from shared.vision.real.registered import open_set

import numpy as np
import numpy.typing as npt
from PIL import Image

from shared.errors import CorruptObject
from shared.realsets import RealSet
from shared.shards import HEAD_BYTES, Place, read_index
from shared.stored.manifest import ListedShard, Manifest

from .distribution import draw_positions
from .features import ListedPhotos, PhotoSet

READERS: dict[str, Callable[[], DigitsSplit]] = {"digits": test_digits, "digits-train": train_digits}
FetchShards = Callable[[Sequence[ListedShard]], Sequence[Path]]


class DrawnImage(NamedTuple):
    """`place` is where the image lies in `file`, this machine's copy of the shard."""

    shard: ListedShard
    slot: int
    file: Path
    place: Place


@dataclass(frozen=True)
class DrawnPhotos:
    images: tuple[DrawnImage, ...]

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str:
        """Of the shards' own digests and the slots."""
        whole = hashlib.sha256()
        for image in self.images:
            whole.update(f"{image.shard.sha256} {image.slot}\n".encode())
        return whole.hexdigest()

    def photo(self, index: int) -> Image.Image:
        image = self.images[index]
        with image.file.open("rb") as file:
            file.seek(image.place.jpeg_offset)
            return open_photo(file.read(image.place.jpeg_bytes), name=f"{image.shard.key} slot {image.slot}")


class NamedPhotos(PhotoSet, Protocol):
    def name(self, index: int) -> str: ...


@dataclass(frozen=True)
class ArrayPhotos:
    """Photos of a set that is built in; images (N, H, W, 3) uint8 and their rows (N,) in the whole set."""

    set_name: str
    images: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str:
        return hashlib.sha256(repr(self.images.shape).encode() + self.images.tobytes()).hexdigest()

    def photo(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def name(self, index: int) -> str:
        return f"{self.set_name} image {self.rows[index]}"


def real_photos(known: RealSet, class_ids: Sequence[str], *, cache_dir: Path) -> NamedPhotos:
    """All that the set has of these classes."""
    if known.place is not None:
        return ListedPhotos(open_set(known, cache_dir=cache_dir).restricted_to(class_ids))
    split = READERS[known.name]()
    wanted = [label for label, class_id in enumerate(known.class_ids) if class_id in class_ids]
    rows = np.flatnonzero(np.isin(split.labels, wanted))
    return ArrayPhotos(known.name, split.images[rows], rows)


def shards_of(manifest: Manifest, class_ids: Sequence[str]) -> list[ListedShard]:
    wanted = set(class_ids)
    return [shard for shard in manifest.shards if shard.class_id in wanted]


def draw_photos(shards: Sequence[ListedShard], *, count: int, seed: int, fetch: FetchShards) -> DrawnPhotos:
    """So many of the images that a dataset has in these shards; only shards with one of them are fetched."""
    ends = np.cumsum([shard.accepted for shard in shards])
    drawn = draw_positions("synthetic", int(ends[-1]), count=count, seed=seed)
    numbers = np.searchsorted(ends, drawn, side="right")
    ranks: dict[int, list[int]] = {}
    for number, position in zip(numbers.tolist(), drawn.tolist(), strict=True):
        ranks.setdefault(number, []).append(position - int(ends[number]) + shards[number].accepted)
    touched = [shards[number] for number in ranks]
    files = fetch(touched)
    return DrawnPhotos(
        tuple(
            image
            for shard, file, chosen in zip(touched, files, ranks.values(), strict=True)
            for image in images_at(shard, file, chosen)
        )
    )


def images_at(shard: ListedShard, file: Path, ranks: Sequence[int]) -> list[DrawnImage]:
    """By their ranks among the images that the dataset has in the shard."""
    with file.open("rb") as opened:
        places = read_index(opened.read(HEAD_BYTES))
    taken = [(slot, place) for slot, place in places.items() if slot < shard.start + shard.take]
    if len(taken) != shard.accepted:
        raise CorruptObject(
            f"object {shard.key} has {len(taken)} images of the dataset and its manifest lists {shard.accepted}; "
            "name another dataset"
        )
    return [DrawnImage(shard, taken[rank][0], file, taken[rank][1]) for rank in ranks]
