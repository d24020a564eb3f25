"""Transfer sets as their authors give them out, with digits for images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import savemat

from tests.shared.real.layouts import SmallImage, small_images, write, write_imagefolder

KINDS = tuple(f"kind_{label}" for label in range(10))


class Halves(NamedTuple):
    """Of four JPEGs a class one is for training, one for validation and two are for the test."""

    train: list[SmallImage]
    val: list[SmallImage]
    test: list[SmallImage]

    @property
    def trainval(self) -> list[SmallImage]:
        return self.train + self.val


def halves() -> Halves:
    images = small_images(4, jpeg_only=True)
    return Halves(images[::4], images[1::4], [image for at, image in enumerate(images) if at % 4 > 1])


def stem(image: SmallImage) -> str:
    return image.name.partition(".")[0]


def lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


def write_aircraft(location: Path, parts: Halves) -> None:
    data = location / "fgvc-aircraft-2013b" / "data"
    write(data / "variants.txt", lines(*KINDS))
    for split, images in (("trainval", parts.trainval), ("test", parts.test)):
        write(data / f"images_variant_{split}.txt", lines(*(f"{stem(image)} {KINDS[image.label]}" for image in images)))
        for image in images:
            write(data / "images" / image.name, image.data)


def write_cars(location: Path, parts: Halves) -> None:
    root = location / "stanford_cars"
    fields = [("class", object), ("fname", object)]
    for split, images, table in (
        ("train", parts.trainval, root / "devkit" / "cars_train_annos.mat"),
        ("test", parts.test, root / "cars_test_annos_withlabels.mat"),
    ):
        for image in images:
            write(root / f"cars_{split}" / image.name, image.data)
        table.parent.mkdir(exist_ok=True)
        savemat(table, {"annotations": np.array([(image.label + 1, image.name) for image in images], dtype=fields)})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(KINDS, dtype=object)})


def write_dtd(location: Path, parts: Halves) -> None:
    root = location / "dtd" / "dtd"
    for split, images in parts._asdict().items():
        write(root / "labels" / f"{split}1.txt", lines(*(f"{KINDS[image.label]}/{image.name}" for image in images)))
        write_imagefolder(root / "images", images, KINDS)


def write_eurosat(location: Path, parts: Halves) -> None:
    write_imagefolder(location / "eurosat" / "2750", parts.trainval + parts.test, KINDS)


def write_flowers(location: Path, parts: Halves) -> None:
    root = location / "flowers-102"
    numbered = list(enumerate(parts.trainval + parts.test, start=1))
    for number, image in numbered:
        write(root / "jpg" / f"image_{number:05d}.jpg", image.data)
    savemat(root / "imagelabels.mat", {"labels": [image.label + 1 for _, image in numbered]})
    number_of = {image.name: number for number, image in numbered}
    ids = {
        key: [number_of[image.name] for image in part]
        for key, part in zip(("trnid", "valid", "tstid"), parts, strict=True)
    }
    savemat(root / "setid.mat", ids)


def write_pets(location: Path, parts: Halves) -> None:
    root = location / "oxford-iiit-pet"
    for split, images in (("trainval", parts.trainval), ("test", parts.test)):
        names = [f"{KINDS[image.label]}_{stem(image)}" for image in images]
        rows = (f"{name} {image.label + 1} 1 1" for name, image in zip(names, images, strict=True))
        write(root / "annotations" / f"{split}.txt", lines(*rows))
        for name, image in zip(names, images, strict=True):
            write(root / "images" / f"{name}.jpg", image.data)


def write_food(location: Path, parts: Halves) -> None:
    root = location / "food-101"
    for split, images in (("train", parts.trainval), ("test", parts.test)):
        names = {
            kind: [f"{kind}/{stem(image)}" for image in images if image.label == label]
            for label, kind in enumerate(KINDS)
        }
        write(root / "meta" / f"{split}.json", json.dumps(names))
        write_imagefolder(root / "images", images, KINDS)


def write_sun(location: Path, parts: Halves) -> None:
    """With one image that no part names: the published splits leave most images out."""
    write(location / "SUN397" / "ClassName.txt", lines(*(f"/k/{kind}" for kind in KINDS)))
    write(location / "SUN397" / "k" / KINDS[0] / "sun_unused.jpg", parts.test[0].data)
    for split, images in (("Training", parts.trainval), ("Testing", parts.test)):
        names = [f"/k/{KINDS[image.label]}/sun_{image.name}" for image in images]
        write(location / "Partitions" / f"{split}_01.txt", lines(*names))
        for name, image in zip(names, images, strict=True):
            write(location / "SUN397" / name[1:], image.data)


def write_species(year: int) -> Callable[[Path, Halves], None]:
    def write_parts(location: Path, parts: Halves) -> None:
        for split, images in (("train", parts.trainval), ("val", parts.test)):
            names = [f"train_val{year}/Aves/{image.label}/{image.name}" for image in images]
            content = {
                "images": [{"id": at, "file_name": name} for at, name in enumerate(names)],
                "annotations": [{"image_id": at, "category_id": image.label} for at, image in enumerate(images)],
                "categories": [{"id": label, "name": kind} for label, kind in enumerate(KINDS)],
            }
            write(location / f"{split}{year}.json", json.dumps(content))
            for name, image in zip(names, images, strict=True):
                write(location / name, image.data)

    return write_parts


def write_train_and_test(location: Path, parts: Halves) -> None:
    write_imagefolder(location / "train", parts.trainval, KINDS)
    write_imagefolder(location / "test", parts.test, KINDS)


WRITERS: dict[str, Callable[[Path, Halves], None]] = {
    "aircraft": write_aircraft,
    "cars196": write_cars,
    "dtd": write_dtd,
    "eurosat": write_eurosat,
    "flowers102": write_flowers,
    "pets": write_pets,
    "food101": write_food,
    "sun397": write_sun,
    "inaturalist2018": write_species(2018),
    "inaturalist2019": write_species(2019),
    **{f"cog-l{level}": write_train_and_test for level in range(1, 6)},
}
