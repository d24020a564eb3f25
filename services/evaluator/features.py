"""What an encoder makes of a set's images before its head, kept on disk: many settings are tried on it."""

import hashlib
import logging
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from shared.vision.networks import EncoderCard
from shared.vision.real.batches import eval_loaders, loaded
from shared.vision.real.decoding import EvalView, eval_pixels, read_photo
from shared.vision.real.listings import Listing

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from shared.disk import PART
from shared.errors import Rejected

from .linear import Check, Examples

BATCH_SIZE = 128
# The short side to the network's size, then the centre square of that size: the whole of a square image.
CROP_PCT = 1.0
NUL = "\0"  # in none of the facts that name a file

logger = logging.getLogger(__name__)


class FeatureCache(NamedTuple):
    """The least recently used files make room, so that `min_free_bytes` of the disk stay free."""

    folder: Path
    min_free_bytes: int


class PhotoSet(Protocol):
    """Photos by position; the same ones in the same order have the same `digest`."""

    def __len__(self) -> int: ...

    def digest(self) -> str: ...

    def photo(self, index: int) -> Image.Image:
        """RGB."""
        ...


@dataclass(frozen=True)
class ListedPhotos:
    listing: Listing

    def __len__(self) -> int:
        return len(self.listing)

    def digest(self) -> str:
        return self.listing.digest()

    def photo(self, index: int) -> Image.Image:
        return read_photo(self.listing.entry(index))

    def name(self, index: int) -> str:
        """Of letters that JSON has, whatever the file's name is made of."""
        return bytes(self.listing.names[index]).decode(errors="backslashreplace")


class Embedding(NamedTuple):
    """What makes features of photos. `check` is called before every batch, and may raise to stop."""

    card: EncoderCard
    network: nn.Module
    encoder_sha256: str
    device: torch.device
    cache: FeatureCache
    check: Check

    @property
    def view(self) -> EvalView:
        return EvalView(self.card.image_size, CROP_PCT, mean=self.card.mean, std=self.card.std)


def cached_examples(listing: Listing, embedding: Embedding) -> Examples:
    """features (N, D) float32 before the head and labels (N,), in the listing's order, on the embedding's device."""
    labels = torch.from_numpy(listing.labels).to(embedding.device)
    return Examples(cached_features(ListedPhotos(listing), embedding), labels)


def cached_features(photos: PhotoSet, embedding: Embedding) -> Tensor:
    """(N, D) float32 before the head, on the embedding's device. A cache that cannot be written is a warning."""
    device, cache = embedding.device, embedding.cache
    facts = (embedding.encoder_sha256, photos.digest(), repr(embedding.view), str(torch.__version__), device.type)
    file = cache.folder / f"{hashlib.sha256(NUL.join(facts).encode()).hexdigest()}.safetensors"
    found = read(file, len(photos))
    if found is None:
        found = extract(photos, embedding)
        keep(found, file, cache.min_free_bytes)
    return found.to(device)


class Views(Dataset[tuple[Tensor, int]]):
    """Each photo as the network is shown it, and its position."""

    def __init__(self, photos: PhotoSet, view: EvalView) -> None:
        self._photos, self._transform = photos, eval_pixels(view)

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._photos.photo(index)), index


def extract(photos: PhotoSet, embedding: Embedding) -> Tensor:
    """(N, D) float32 in main memory."""
    features = torch.empty(0)
    done, view = 0, embedding.view
    for images, _ in loaded(Views(photos, view), batch_size=BATCH_SIZE, workers=eval_loaders(view, BATCH_SIZE)):
        embedding.check()
        with torch.inference_mode():
            rows = before_head(embedding.network, images.to(embedding.device)).float()
        if not done:
            features = torch.empty(len(photos), rows.shape[1])  # gigabytes for a large set: never held twice
        features[done : done + len(rows)] = rows
        done += len(rows)
    return features


def before_head(network: nn.Module, images: Tensor) -> Tensor:
    """(B, D): after the global pool, where timm's networks end without their classifier."""
    features: Tensor = network.forward_head(network.forward_features(images), pre_logits=True)  # type: ignore[operator]
    if features.ndim != 2:
        raise Rejected(f"the network gives features {tuple(features.shape)} for each batch, not one row an image")
    return features


def read(file: Path, count: int) -> Tensor | None:
    """None for what is absent or was cut short; it is then made again."""
    if not file.is_file():
        return None
    try:
        os.utime(file)  # of use just now
        features = load_file(file)["features"]
    except (OSError, SafetensorError) as error:
        logger.warning("cached features are made again", extra={"file": str(file), "reason": str(error)})
        return None
    return features if len(features) == count else None


def keep(features: Tensor, file: Path, min_free_bytes: int) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if make_room(file.parent, features.nbytes + min_free_bytes):
            write(features, file)
        else:
            logger.warning("features are not cached", extra={"bytes": features.nbytes, "reason": "no room"})
    except (OSError, SafetensorError) as error:
        logger.warning("features are not cached", extra={"bytes": features.nbytes, "reason": str(error)})


def make_room(folder: Path, needed: int) -> bool:
    """Whether there are `needed` bytes, once the least recently used, and what killed processes left, are deleted."""
    files = sorted(((file, file.stat()) for file in folder.iterdir()), key=lambda each: each[1].st_mtime)
    if shutil.disk_usage(folder).free + sum(status.st_size for _, status in files) < needed:
        return False
    for file, _ in files:
        if shutil.disk_usage(folder).free >= needed:
            break
        file.unlink(missing_ok=True)
    return shutil.disk_usage(folder).free >= needed


def write(features: Tensor, file: Path) -> None:
    """From where they lie in memory, under a name that is nobody's until they are whole."""
    part = file.with_name(f"{PART}{uuid.uuid4().hex}")
    try:
        save_file({"features": features}, part)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
