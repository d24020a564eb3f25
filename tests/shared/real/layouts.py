"""Digits written as photos in every form in which real sets come, for tests of whatever reads them."""

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from shared.vision.digits import DIGIT_WNIDS, train_digits
from shared.vision.real.layouts import Layout

import numpy as np
import numpy.typing as npt
from PIL import Image

PNG_EVERY = 5


class SmallImage(NamedTuple):
    """`name` has no folder; its extension says the format."""

    label: int
    name: str
    data: bytes


def small_images(per_class: int = 4, *, classes: int = 10, jpeg_only: bool = False) -> list[SmallImage]:
    """Digits, class by class: JPEG, each fifth PNG unless told otherwise, no two of the same size in pixels nearby."""
    digits = train_digits()
    images = []
    for label in range(classes):
        for index in np.flatnonzero(digits.labels == label)[:per_class]:
            extension = "png" if len(images) % PNG_EVERY == PNG_EVERY - 1 and not jpeg_only else "jpg"
            size = (32 + len(images) % 7 * 5, 32 + len(images) % 5 * 9)
            images.append(
                SmallImage(label, f"img{len(images)}.{extension}", encoded(digits.images[index], extension, size))
            )
    return images


def encoded(pixels: npt.NDArray[np.uint8], extension: str, size: tuple[int, int]) -> bytes:
    """size is (width, height)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG"}[extension])
    return buffer.getvalue()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_imagefolder(root: Path, images: Sequence[SmallImage], folders: Sequence[str] = DIGIT_WNIDS) -> Path:
    for image in images:
        write(root / folders[image.label] / image.name, image.data)
    return root


def write_csv(root: Path, images: Sequence[SmallImage], folders: Sequence[str] = DIGIT_WNIDS) -> Path:
    """One flat folder, as ImageNet's validation images come."""
    for image in images:
        write(root / "flat" / image.name, image.data)
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label"])
        rows.writerows([f"flat/{image.name}", folders[image.label]] for image in images)
    return root


def write_webdataset(root: Path, images: Sequence[SmallImage], *, per_shard: int = 16) -> Path:
    """Labels in turn as .cls (a number), .json and .txt; classes.txt beside the shards."""
    root.mkdir(parents=True)
    for shard, start in enumerate(range(0, len(images), per_shard)):
        with tarfile.open(root / f"{shard:04d}.tar", "w") as tar:
            for number, image in enumerate(images[start : start + per_shard]):
                stem = image.name.partition(".")[0]
                add_member(tar, image.name, image.data)
                extension, label = labels_of(image.label)[number % 3]
                add_member(tar, f"{stem}.{extension}", label.encode())
    write(root / "classes.txt", "\n".join(DIGIT_WNIDS) + "\n")
    return root


def labels_of(label: int) -> list[tuple[str, str]]:
    return [("cls", str(label)), ("json", json.dumps({"label": label, "width": 32})), ("txt", f"{label}\n")]


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_tar(
    path: Path, images: Sequence[SmallImage], folders: Sequence[str] = DIGIT_WNIDS, *, mode: str = "w"
) -> Path:
    """With a folder around the class folders and a README in it, as ImageNet-R comes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        add_member(tar, "outer/README.txt", b"renditions")
        for image in images:
            add_member(tar, f"outer/{folders[image.label]}/{image.name}", image.data)
    return path


def write_zip(path: Path, images: Sequence[SmallImage], folders: Sequence[str] = DIGIT_WNIDS) -> Path:
    """Every second member stored, the others deflated."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            packing = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.writestr(f"{folders[image.label]}/{image.name}", image.data, packing)
    return path


def write_tar_gz(path: Path, images: Sequence[SmallImage]) -> Path:
    return write_tar(path, images, mode="w:gz")


FORMS: dict[str, tuple[Layout, str, Callable[[Path, Sequence[SmallImage]], Path]]] = {
    "imagefolder": ("imagefolder", "set", write_imagefolder),
    "csv": ("csv", "set", write_csv),
    "webdataset": ("webdataset", "set", write_webdataset),
    "tar": ("archive", "set.tar", write_tar),
    "tar.gz": ("archive", "set.tar.gz", write_tar_gz),
    "zip": ("archive", "set.zip", write_zip),
}
