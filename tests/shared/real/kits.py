"""Hand-made copies of ImageNet's validation set as it is given out, with its development kit."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.io

from tests.shared.real.layouts import SmallImage, add_member, write

KIT = "ILSVRC2012_devkit_t12"
FIELDS = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images")


def meta_mat(numbers: Mapping[str, int], inner: Mapping[str, int]) -> bytes:
    """ILSVRC2012_ID by WordNet id; `inner` synsets have children and so are no classes."""
    rows = np.zeros((len(numbers) + len(inner), 1), dtype=[(name, object) for name in FIELDS])
    for row, (wnid, number) in enumerate([*numbers.items(), *inner.items()]):
        children = [1.0, 2.0] if wnid in inner else []
        rows[row, 0] = (float(number), wnid, "words", "gloss", float(len(children)), children, 0.0, 1300.0)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": rows}, do_compression=True)
    return buffer.getvalue()


def kit_files(truth: Sequence[int], meta: bytes) -> dict[str, bytes]:
    lines = "".join(f"{number}\n" for number in truth)
    return {"data/meta.mat": meta, "data/ILSVRC2012_validation_ground_truth.txt": lines.encode()}


def image_names(images: Sequence[SmallImage]) -> list[str]:
    return [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(images) + 1)]


def write_unpacked(root: Path, images: Sequence[SmallImage], files: Mapping[str, bytes]) -> Path:
    for name, image in zip(image_names(images), images, strict=True):
        write(root / name, image.data)
    for name, data in files.items():
        write(root / KIT / name, data)
    return root


def write_archives(root: Path, images: Sequence[SmallImage], files: Mapping[str, bytes]) -> Path:
    root.mkdir(parents=True)
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
        for name, image in zip(image_names(images), images, strict=True):
            add_member(tar, name, image.data)
    with tarfile.open(root / f"{KIT}.tar.gz", "w:gz") as tar:
        for name, data in files.items():
            add_member(tar, f"{KIT}/{name}", data)
    return root
