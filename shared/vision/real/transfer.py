"""The transfer sets, each with a part to fit a classifier on and a part to test it on.

A copy lies as published, where torchvision reads it, or as LOCATION/train/CLASS/x.jpg and LOCATION/test/CLASS/x.jpg.
"""

from pathlib import Path
from typing import NamedTuple

from shared.errors import Rejected

from .known_sets import check_counts
from .layouts import read_listing
from .listings import Listing
from .originals import ORIGINALS, read_original


class TransferSet(NamedTuple):
    """Both parts count the same classes in the same order."""

    train: Listing
    test: Listing


class Published(NamedTuple):
    """Sizes as published; None where they are not."""

    classes: int
    train_images: int | None
    test_images: int | None


# Aircraft, DTD and Flowers102 publish a validation part too; it belongs to what a classifier is fitted on.
TRANSFER_SETS = {
    "aircraft": Published(100, 6_667, 3_333),
    "cars196": Published(196, 8_144, 8_041),
    "dtd": Published(47, 3_760, 1_880),
    "eurosat": Published(10, 18_900, 8_100),
    "flowers102": Published(102, 2_040, 6_149),
    "pets": Published(37, 3_680, 3_669),
    "food101": Published(101, 75_750, 25_250),
    "sun397": Published(397, 19_850, 19_850),
    "inaturalist2018": Published(8_142, 437_513, 24_426),
    "inaturalist2019": Published(1_010, 265_213, 3_030),
    **{f"cog-l{level}": Published(1_000, None, None) for level in range(1, 6)},
}


def read_transfer_set(name: str, location: Path, *, strict: bool = True) -> TransferSet:
    """Raises Rejected where the copy is not whole. `strict=False` is for cuts made to try things."""
    if name not in TRANSFER_SETS:
        raise Rejected(f"unknown transfer set {name!r}; known: {', '.join(TRANSFER_SETS)}")
    if not location.is_dir():
        raise Rejected(f"{location} is no folder; give the one that holds {name}")
    found = read_parts(name, location, strict=strict)
    if strict:
        published = TRANSFER_SETS[name]
        check_counts(f"{name} train", found.train, classes=published.classes, images=published.train_images)
        check_counts(f"{name} test", found.test, classes=published.classes, images=published.test_images)
    return found


def read_parts(name: str, location: Path, *, strict: bool) -> TransferSet:
    folders = location / "train", location / "test"
    if all(folder.is_dir() for folder in folders):
        train = read_listing("imagefolder", folders[0])
        return TransferSet(train, read_listing("imagefolder", folders[1], classes=train.class_ids))
    if name not in ORIGINALS:
        raise Rejected(f"{location} has no folders train/ and test/, the only form in which {name} is read")
    return TransferSet(*read_original(name, location, strict=strict))
