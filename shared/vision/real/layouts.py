"""The forms in which a set lies on a disk: class folders, an archive of them, WebDataset shards, or a table."""

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from shared.errors import Rejected

from .archives import Unpacking, read_archive
from .folders import (
    IMAGE_EXTENSIONS,
    Labelled,
    by_class_folder,
    file_of_its_own,
    is_image,
    tree_below,
    without_outer_folders,
)
from .ilsvrc2012 import read_validation
from .listings import Listing, make_listing
from .samples import read_samples

Layout = Literal["imagefolder", "webdataset", "archive", "csv", "ilsvrc2012"]
TABLE = "labels.csv"
COLUMNS = ("file", "label")


def read_listing(
    layout: Layout, location: Path, *, classes: Sequence[str] | None = None, unpacking: Unpacking | None = None
) -> Listing:
    """Every image of a set with its label; raises Rejected naming the path at fault.

    imagefolder: LOCATION/CLASS/any/depth/x.jpg. archive: LOCATION is a .tar, .tar.gz or .zip of such a folder; only
    .tar.gz needs `unpacking`. webdataset: LOCATION/*.tar of KEY.jpg beside KEY.cls, KEY.json or KEY.txt. csv:
    LOCATION/labels.csv with the columns file and label, the files below LOCATION. ilsvrc2012: LOCATION holds the two
    archives of ImageNet's validation set, or what is in them (ilsvrc2012.py). `classes` are the class ids in label
    order; a copy may name a class by its id or by its position. Names that begin with a dot are left out.
    """
    if layout == "archive":
        tree = without_outer_folders(read_archive(location, unpacking))
        return make_listing(by_class_folder(tree, where=location), classes, root=location)
    if not location.is_dir():
        raise Rejected(f"{location} is no folder; the layout {layout} needs one")
    if layout == "webdataset":
        images, classes = read_samples(location, classes)
    elif layout == "csv":
        images = images_of_table(location)
    elif layout == "ilsvrc2012":
        images = read_validation(location)
    else:
        images = by_class_folder(tree_below(location), where=location)
    return make_listing(images, classes, root=location)


def images_of_table(location: Path) -> list[Labelled]:
    table = location / TABLE
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := [column for column in COLUMNS if column not in (rows.fieldnames or ())]:
                raise Rejected(f"{table} has no column {' and '.join(missing)}; its first line must be file,label")
            return [image_of_row(location, row, where=f"{table}:{rows.line_num}") for row in rows]
    except OSError as error:
        raise Rejected(f"cannot read {table}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise Rejected(f"{table} is no CSV in UTF-8: {error}") from error


def image_of_row(location: Path, row: dict[str, str | None], *, where: str) -> Labelled:
    name, label = row["file"], row["label"]
    if not name or not label:
        raise Rejected(f"{where} lacks a file or a label")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise Rejected(f"{where} names {name}, which lies outside {location}; give paths below it")
    if not is_image(name):
        raise Rejected(f"{where} names {name}, which is no image ({', '.join(IMAGE_EXTENSIONS)}); convert it")
    return Labelled(label, file_of_its_own(location, path.as_posix()))
