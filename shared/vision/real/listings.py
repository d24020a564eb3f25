"""The index of a real image set: where each image's bytes lie, and its label. Nothing is decoded."""

import hashlib
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared.errors import CorruptObject, Rejected, Unavailable

from .folders import Labelled

NO_ARCHIVE = -1


class Entry(NamedTuple):
    label: int
    name: str
    path: str
    """The image's own file, or the archive around it."""
    offset: int
    stored_bytes: int
    file_bytes: int
    deflated: bool


@dataclass(frozen=True)
class Listing:
    """Columns instead of a tuple per image: they hold millions of rows and are shared with data loader processes.

    labels (N,) int64, positions in `class_ids`; names (N,) bytes; places (N, 5) int64: number of the archive (-1 for a
    file of its own), offset, stored bytes, file bytes, 1 where deflated.
    """

    class_ids: tuple[str, ...]
    root: str
    archives: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    names: npt.NDArray[np.bytes_]
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Entry]:
        return (self.entry(index) for index in range(len(self)))

    def entry(self, index: int) -> Entry:
        archive, offset, stored_bytes, file_bytes, deflated = (int(value) for value in self.places[index])
        name = self.names[index].decode(errors="surrogateescape")
        path = str(Path(self.root, name)) if archive == NO_ARCHIVE else self.archives[archive]
        return Entry(int(self.labels[index]), name, path, offset, stored_bytes, file_bytes, bool(deflated))

    def digest(self) -> str:
        """SHA-256 over every image's name, size in bytes and class: another copy with the same files has the same."""
        whole = hashlib.sha256()
        for label, name, place in zip(self.labels.tolist(), self.names.tolist(), self.places.tolist(), strict=True):
            whole.update(b"%s\0%d\0%s\n" % (name, place[3], self.class_ids[label].encode()))
        return whole.hexdigest()

    def classes_present(self) -> int:
        return len(np.unique(self.labels))

    def restricted_to(self, class_ids: Sequence[str]) -> "Listing":
        """Only the images of these classes, labelled by their positions among them.

        Raises Rejected where the set lacks one.
        """
        position = {class_id: label for label, class_id in enumerate(self.class_ids)}
        if missing := [class_id for class_id in class_ids if class_id not in position]:
            raise Rejected(f"{self.root} has no class {shown(missing)}; it has {len(self.class_ids)} classes")
        renumbered = np.full(len(self.class_ids), -1, dtype=np.int64)
        renumbered[[position[class_id] for class_id in class_ids]] = np.arange(len(class_ids))
        labels = renumbered[self.labels]
        kept = labels >= 0
        return Listing(tuple(class_ids), self.root, self.archives, labels[kept], self.names[kept], self.places[kept])


def make_listing(images: Iterable[Labelled], classes: Sequence[str] | None, *, root: Path | str) -> Listing:
    """In timm's order. `classes` gives the label order; without it the class names found are the ids, sorted."""
    ordered = sorted(images, key=lambda image: natural_order(image.file.name))
    if not ordered:
        raise Rejected(f"{root} holds no image")
    refuse_repeated([image.file.name for image in ordered], where=root)
    class_ids, label_of = labels_by_name({image.class_name for image in ordered}, classes, where=root)
    archives = tuple(sorted({image.file.archive for image in ordered if image.file.archive is not None}))
    number_of: dict[str | None, int] = {None: NO_ARCHIVE, **{path: number for number, path in enumerate(archives)}}
    return Listing(
        class_ids=class_ids,
        root=str(root),
        archives=archives,
        labels=np.array([label_of[image.class_name] for image in ordered], dtype=np.int64),
        names=np.array([image.file.name.encode(errors="surrogateescape") for image in ordered]),
        places=np.array([(number_of[image.file.archive], *image.file[2:]) for image in ordered], dtype=np.int64),
    )


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Digits by their value, as timm sorts a folder: img2 before img10; the name itself parts "1" from "01"."""
    # Every second piece is a number, so words are only ever compared with words.
    pieces = re.split(r"([0-9]+)", name.lower())
    return [int(piece) if position % 2 else piece for position, piece in enumerate(pieces)], name


def refuse_repeated(ordered_names: Sequence[str], *, where: Path | str) -> None:
    for name, following in pairwise(ordered_names):
        if name == following:
            raise Rejected(f"{where} lists {name} twice")


def labels_by_name(
    names: Collection[str], classes: Sequence[str] | None, *, where: Path | str
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class ids in label order, and the label of each class name of the copy.

    A copy names its classes by their ids, or all of them by their positions, as ImageNet-v2's folders 0 to 999.
    """
    if classes is None:
        class_ids = tuple(sorted(names))
        return class_ids, {class_id: label for label, class_id in enumerate(class_ids)}
    position = {class_id: label for label, class_id in enumerate(classes)}
    if all(name in position for name in names):
        return tuple(classes), {name: position[name] for name in names}
    if all(re.fullmatch("[0-9]{1,9}", name) for name in names):
        position = {name: int(name) for name in names}
    unknown = sorted(name for name in names if position.get(name, len(classes)) >= len(classes))
    if unknown:
        raise Rejected(
            f"{where} has the unknown class {shown(unknown)}; known are {len(classes)} class ids, {shown(classes)}, "
            f"or their positions 0 to {len(classes) - 1}"
        )
    if len(set(position.values())) < len(position):
        refuse_two_names(position, where=where)
    return tuple(classes), position


def refuse_two_names(position: dict[str, int], *, where: Path | str) -> None:
    for label in position.values():
        if len(same := sorted(name for name, other in position.items() if other == label)) > 1:
            raise Rejected(f"{where}: class {label} is written {shown(same)}; write it in one way")


def shown(names: Sequence[str]) -> str:
    listed = ", ".join(name[:100] for name in names[:5])
    return f"{listed} and {len(names) - 5} more" if len(names) > 5 else listed


def read_bytes(entry: Entry) -> bytes:
    """The image's file. Raises CorruptObject, naming it, where it is no longer what was listed."""
    try:
        with open(entry.path, "rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.stored_bytes)
        if entry.deflated:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.file_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorruptObject(f"{entry.name} is listed and {entry.path} is not there any more") from error
    except OSError as error:
        raise Unavailable(f"cannot read {entry.name} in {entry.path}: {error.strerror}") from error
    except zlib.error as error:
        raise CorruptObject(f"{entry.name} in {entry.path} cannot be inflated: {error}") from error
    if len(data) != entry.file_bytes:
        raise CorruptObject(
            f"{entry.name} in {entry.path} has {len(data)} bytes, {entry.file_bytes} when it was listed"
        )
    return data
