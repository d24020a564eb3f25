"""Images per second that the CPU readies for multi-crop training, beside the same crops made by timm's transforms.

`python -m bench.input_path`. Both read the same shards of 512 x 512 JPEGs with one loader process a core. Ours decodes
to uint8 and draws the choices of the nine crops; the crops themselves are the training device's work, so their time on
this CPU is given apart. timm decodes and makes one 224 and eight 96 crops with colour, as torch's DataLoader runs it;
its blur takes a kernel of 23 at every size, so it is measured without blur, too. timm has no solarisation. The loaders
take turns, so that a slow moment of the machine hits all.
"""

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from shared.vision.drawn import ShardImages, index_shards
from shared.vision.images import decode

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from services.trainer.crops import padded, random_crops
from services.trainer.draws import CropDraws, draw_crops
from shared.recipes import IMAGENET_SD, CropRecipe
from shared.shards import Sample, pack
from shared.stored.manifest import ManifestShard

from .machine import write_result

SIDE = 512
SHARDS = 4
SLOTS = 64
QUALITY = 90
BATCH = 32
ROUNDS = 3
DEVICE_IMAGES = 16
CLASS = "n00000001"
PACKAGES = ("torch", "torchvision", "timm", "pillow", "numpy")
Batch = tuple[Tensor, tuple[CropDraws, ...]]


class Uint8(Dataset[object]):
    """Our input path: what the loader's processes do."""

    def __init__(self, source: ShardImages) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.source.image(index), index


def collate(items: Sequence[tuple[Tensor, int]]) -> Batch:
    images, sizes = padded([image for image, _ in items])
    indices = np.array([index for _, index in items])
    return images, draw_crops(IMAGENET_SD.crops, seed=1, epochs=0 * indices, indices=indices, sizes=sizes)


class TimmCrops(Dataset[object]):
    """What a user of timm would write for the same crops."""

    def __init__(self, source: ShardImages, *, blur: bool) -> None:
        self.source = source
        recipes = IMAGENET_SD.crops
        self.transforms = [(recipe.count, timm_transform(recipe, blur=recipe.blur * blur)) for recipe in recipes]

    def __len__(self) -> int:
        return len(self.source.labels)

    def __getitem__(self, index: int) -> list[Tensor]:
        image = Image.open(io.BytesIO(jpeg(self.source, index))).convert("RGB")
        return [transform(image) for count, transform in self.transforms for _ in range(count)]


def timm_transform(recipe: CropRecipe, *, blur: float) -> Callable[[Image.Image], Tensor]:
    transform: Callable[[Image.Image], Tensor] = timm.data.create_transform(
        recipe.size,
        is_training=True,
        scale=recipe.scale,
        ratio=recipe.aspect,
        hflip=recipe.flip,
        color_jitter=recipe.jitter,
        color_jitter_prob=recipe.jitter_probability,
        grayscale_prob=recipe.grayscale,
        gaussian_blur_prob=blur,
        interpolation="bicubic",
    )
    return transform


def jpeg(source: ShardImages, index: int) -> bytes:
    number, offset, length = (int(value) for value in source.places[index])
    with source.files[number].open("rb") as file:
        file.seek(offset)
        return file.read(length)


def photo(seed: int) -> bytes:
    """JPEG of a gradient and noise at every scale: about as many bytes as a photo has."""
    generator = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    total = generator.uniform(-1, 1, 3) * across[..., None] + generator.uniform(-1, 1, 3) * down[..., None]
    for cells in (4, 8, 16, 32, 64, 128, 256, SIDE):
        noise = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total = total + (np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 128.0 - 1) * cells**-0.5
    pixels = np.clip(128 + 60 * total / total.std(), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def make_source(folder: Path) -> ShardImages:
    files, shards = [], []
    for number in range(SHARDS):
        slots = range(number * SLOTS, (number + 1) * SLOTS)
        samples = [Sample(f"{CLASS}_{slot:08d}", slot, photo(slot), 1, {}) for slot in slots]
        file = folder / f"{number}.tar"
        file.write_bytes(pack(samples))
        files.append(file)
        place = {"key": file.name, "bytes": file.stat().st_size, "sha256": "", "start": slots.start, "take": SLOTS}
        shards.append(ManifestShard(class_id=CLASS, **place))
    return index_shards(files, shards, {CLASS: 0})


class Decoder(NamedTuple):
    name: str
    decode: Callable[[bytes], object]


def drafted(data: bytes) -> Tensor:
    """At half the size, which libjpeg reaches without decoding the rest."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (SIDE // 2, SIDE // 2))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def channels_last(data: bytes) -> Tensor:
    """(H, W, 3), as libjpeg gives it."""
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))


DECODERS = (Decoder("pillow", decode), Decoder("pillow, H W 3", channels_last), Decoder("pillow, half size", drafted))


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def consume(loader: DataLoader[object]) -> None:
    for _ in loader:
        pass


def loader_speeds(source: ShardImages) -> dict[str, list[float]]:
    """Images per second of every round, all cores; the first pass of each, which starts its processes, is left out."""

    def loader(images: Dataset[object], join: Callable[..., object] | None = None) -> DataLoader[object]:
        return DataLoader(
            images, batch_size=BATCH, num_workers=os.cpu_count() or 1, persistent_workers=True, collate_fn=join
        )

    loaders = {
        "ours": loader(Uint8(source), collate),
        "timm": loader(TimmCrops(source, blur=True)),
        "timm without blur": loader(TimmCrops(source, blur=False)),
    }
    for each in loaders.values():
        consume(each)
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(ROUNDS):
        for name, each in loaders.items():
            found[name].append(len(source.labels) / seconds_of(partial(consume, each)))
    return found


def decode_all(decoder: Decoder, data: Sequence[bytes]) -> None:
    for item in data:
        decoder.decode(item)


def decoder_speeds(source: ShardImages) -> dict[str, float]:
    """Images per second of one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader's process
    data = [jpeg(source, index) for index in range(len(source.labels))]
    found: dict[str, list[float]] = {decoder.name: [] for decoder in DECODERS}
    for _ in range(ROUNDS):
        for decoder in DECODERS:
            found[decoder.name].append(len(data) / seconds_of(partial(decode_all, decoder, data)))
    torch.set_num_threads(threads)
    return {name: round(statistics.median(speeds), 1) for name, speeds in found.items()}


def crop_milliseconds(source: ShardImages) -> float:
    """Of all crops of one image by random_crops, when this CPU is the device."""
    images, draws = collate([(source.image(index), index) for index in range(DEVICE_IMAGES)])
    work = [seconds_of(lambda: [random_crops(images, part) for part in draws]) for _ in range(ROUNDS + 1)][1:]
    return round(statistics.median(work) / DEVICE_IMAGES * 1000, 2)


def draw_microseconds() -> float:
    """Of the choices of all crops of one image, in batches of 256."""
    indices = np.arange(256)
    sizes = np.full((256, 2), SIDE)
    draw = partial(draw_crops, IMAGENET_SD.crops, seed=1, epochs=0 * indices, indices=indices, sizes=sizes)
    return round(statistics.median(seconds_of(draw) for _ in range(10 * ROUNDS)) / 256 * 1e6, 2)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder))
        speeds = loader_speeds(source)
        decoders = decoder_speeds(source)
        crops = crop_milliseconds(source)
        draws = draw_microseconds()
    medians = {name: round(statistics.median(rounds), 1) for name, rounds in speeds.items()}
    ratios = {name: round(medians["ours"] / medians[name], 2) for name in medians if name != "ours"}
    kilobytes = round(float(source.places[:, 2].mean()) / 1000)
    print(f"{len(source.labels)} JPEGs of {SIDE} x {SIDE}, {kilobytes} kB each; {os.cpu_count()} loader processes")
    print(f"{'':34}{'img/s':>8}{'ours / it':>11}")
    print(f"{'ours: decode to uint8, draw choices':34}{medians['ours']:8.1f}")
    for name, ratio in ratios.items():
        print(f"{name + ': decode, 9 crops, colour':34}{medians[name]:8.1f}{ratio:11.2f}")
    for name, speed in decoders.items():
        print(f"{'one core, ' + name:34}{speed:8.1f}")
    print(f"for information, choices of 9 crops: {draws} us an image; the crops on this CPU: {crops} ms an image")
    facts = {"images": len(source.labels), "kilobytes": kilobytes, "images_per_second": medians, "ratios": ratios}
    facts |= {"rounds": speeds, "decoders": decoders, "crops_ms": crops, "draws_us": draws}
    write_result("input_path", facts, PACKAGES)


if __name__ == "__main__":
    main()
