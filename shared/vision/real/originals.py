"""Transfer sets in the form in which their authors give them out, indexed by torchvision's classes."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]  # scipy ships no types
from torchvision.datasets import (
    DTD,
    SUN397,
    EuroSAT,
    FGVCAircraft,
    Flowers102,
    Food101,
    OxfordIIITPet,
    StanfordCars,
)

from shared.errors import Rejected

from .folders import Labelled, file_of_its_own
from .listings import Listing, make_listing


class Part(NamedTuple):
    """Paths with their labels, positions in `class_ids`."""

    class_ids: tuple[str, ...]
    images: list[tuple[Path, int]]


Parts = tuple[Part, Part]


class Original(NamedTuple):
    """`read(location)` gives the training and the test part; `needs` are the files it looks for there."""

    read: Callable[[Path], Parts]
    needs: str


class UncheckedFlowers(Flowers102):  # type: ignore[misc]  # torchvision is untyped
    """Takes label files of its own form too: torchvision compares them with the published ones."""

    _file_dict = {part: (file, None) for part, (file, _) in Flowers102._file_dict.items()}


def read_original(name: str, location: Path, *, strict: bool) -> tuple[Listing, Listing]:
    original = UNCHECKED_ORIGINALS.get(name, ORIGINALS[name]) if not strict else ORIGINALS[name]
    try:
        train, test = original.read(location)
    except (RuntimeError, OSError, LookupError, ValueError, MatReadError) as error:
        raise Rejected(
            f"{location} holds no whole {name}: it needs {original.needs}, or folders train/ and test/ ({error})"
        ) from error
    if train.class_ids != test.class_ids:
        raise Rejected(f"the parts of {name} in {location} name different classes; is the copy whole?")
    return listing_of(train, location), listing_of(test, location)


def listing_of(part: Part, location: Path) -> Listing:
    images = [
        Labelled(part.class_ids[label], file_of_its_own(location, path.relative_to(location).as_posix()))
        for path, label in part.images
    ]
    return make_listing(images, part.class_ids, root=location)


def indexed(*datasets: Any) -> Part:
    """Of datasets whose `loader` is `Path`, so that an item is a path and its label."""
    class_ids = tuple(datasets[0].classes)
    if any(tuple(dataset.classes) != class_ids for dataset in datasets):
        raise ValueError("its training parts name different classes")
    items = (dataset[index] for dataset in datasets for index in range(len(dataset)))
    return Part(class_ids, [(path, int(label)) for path, label in items])


def aircraft(location: Path) -> Parts:
    return (
        indexed(FGVCAircraft(location, split="trainval", loader=Path)),
        indexed(FGVCAircraft(location, split="test", loader=Path)),
    )


def cars(location: Path) -> Parts:
    return (
        indexed(StanfordCars(location, split="train", loader=Path)),
        indexed(StanfordCars(location, split="test", loader=Path)),
    )


def textures(location: Path) -> Parts:
    train, validation, test = (DTD(location, split=split, loader=Path) for split in ("train", "val", "test"))
    return indexed(train, validation), indexed(test)


def flowers(kind: type[Flowers102]) -> Callable[[Path], Parts]:
    def read(location: Path) -> Parts:
        train, validation, test = (kind(location, split=split, loader=Path) for split in ("train", "val", "test"))
        return indexed(train, validation), indexed(test)

    return read


def pets(location: Path) -> Parts:
    def part(split: str) -> Part:
        # The only one of these classes without a `loader`.
        known = OxfordIIITPet(location, split=split)
        return Part(tuple(known.classes), list(zip(known._images, known._labels, strict=True)))

    return part("trainval"), part("test")


def food(location: Path) -> Parts:
    return indexed(Food101(location, split="train", loader=Path)), indexed(Food101(location, split="test", loader=Path))


def eurosat(location: Path) -> Parts:
    """Published without parts. Ours: of each class the 70 % whose names have the smallest SHA-256 are for training."""
    whole = indexed(EuroSAT(location, loader=Path))
    of_class: dict[int, list[Path]] = defaultdict(list)
    for path, label in whole.images:
        of_class[label].append(path)
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, paths in of_class.items():
        shuffled = sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).digest())
        border = len(paths) * 7 // 10
        train += [(path, label) for path in shuffled[:border]]
        test += [(path, label) for path in shuffled[border:]]
    return Part(whole.class_ids, train), Part(whole.class_ids, test)


def scenes(location: Path) -> Parts:
    """The first of the ten published splits; torchvision reads the images only."""
    whole = indexed(SUN397(location, loader=Path))
    label_of = dict(whole.images)

    def part(split: str) -> Part:
        names = (location / "Partitions" / f"{split}_01.txt").read_text().split()
        paths = [location / "SUN397" / name.removeprefix("/") for name in names]
        return Part(whole.class_ids, [(path, label_of[path]) for path in paths])

    return part("Training"), part("Testing")


def species(year: int) -> Callable[[Path], Parts]:
    """iNaturalist's validation part is what is tested on; the labels of its test part were never published."""

    def part(location: Path, split: str) -> Part:
        content = json.loads((location / f"{split}{year}.json").read_text())
        path_of = {image["id"]: location / image["file_name"] for image in content["images"]}
        ids = sorted(category["id"] for category in content["categories"])
        label_of = {category: label for label, category in enumerate(ids)}
        marks: Iterable[dict[str, int]] = content["annotations"]
        images = [(path_of[mark["image_id"]], label_of[mark["category_id"]]) for mark in marks]
        return Part(tuple(str(category) for category in ids), images)

    return lambda location: (part(location, "train"), part(location, "val"))


FLOWERS_FILES = "flowers-102/ with jpg/, imagelabels.mat and setid.mat as published"
ORIGINALS = {
    "aircraft": Original(aircraft, "fgvc-aircraft-2013b/data/"),
    "cars196": Original(
        cars, "stanford_cars/ with cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat"
    ),
    "dtd": Original(textures, "dtd/dtd/ with images/ and labels/"),
    "eurosat": Original(eurosat, "eurosat/2750/"),
    "flowers102": Original(flowers(Flowers102), FLOWERS_FILES),
    "pets": Original(pets, "oxford-iiit-pet/ with images/ and annotations/"),
    "food101": Original(food, "food-101/ with images/ and meta/"),
    "sun397": Original(scenes, "SUN397/ with ClassName.txt, and Partitions/ with Training_01.txt and Testing_01.txt"),
    "inaturalist2018": Original(species(2018), "train2018.json, val2018.json and train_val2018/"),
    "inaturalist2019": Original(species(2019), "train2019.json, val2019.json and train_val2019/"),
}
UNCHECKED_ORIGINALS = {"flowers102": Original(flowers(UncheckedFlowers), FLOWERS_FILES)}
