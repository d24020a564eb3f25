"""Class folders: the names of files say which class each image shows, on a disk or in an archive."""

import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

from shared.errors import Rejected

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")
MAC_LEFTOVERS = "__MACOSX"


class StoredFile(NamedTuple):
    """Where a file's bytes lie: in a file of its own, or in an archive at `offset`."""

    name: str  # below the set's location, with "/"
    archive: str | None
    offset: int
    stored_bytes: int
    file_bytes: int  # more than stored when deflated
    deflated: bool = False


class Labelled(NamedTuple):
    """An image with the name of its class as the copy writes it."""

    class_name: str
    file: StoredFile


class Tree(NamedTuple):
    files: list[StoredFile]
    folders: list[str]


def is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_EXTENSIONS


def is_hidden(name: str) -> bool:
    """What file managers leave behind, as .DS_Store."""
    return any(part.startswith(".") or part == MAC_LEFTOVERS for part in name.split("/"))


def tree_below(location: Path) -> Tree:
    """Follows links, as torchvision and timm do: large copies are often put together from several disks."""
    tree = Tree([], [])
    for folder, subfolders, files in os.walk(location, followlinks=True, onerror=unreadable):
        relative = Path(folder).relative_to(location)
        names = [(relative / name).as_posix() for name in files]
        tree.files.extend(file_of_its_own(location, name) for name in names if not is_hidden(name))
        subfolders[:] = [name for name in subfolders if not is_hidden(name)]
        tree.folders.extend((relative / name).as_posix() for name in subfolders)
    return tree


def unreadable(error: OSError) -> NoReturn:
    raise Rejected(f"cannot read {error.filename}: {error.strerror}") from error


def file_of_its_own(location: Path, name: str) -> StoredFile:
    """Raises Rejected where there is no such file."""
    try:
        size = os.stat(location / name).st_size
    except OSError as error:
        unreadable(error)
    return StoredFile(name, None, 0, size, size)


def by_class_folder(tree: Tree, *, where: Path) -> list[Labelled]:
    """Every image with its class: the first folder of its name.

    Files beside the class folders, such as a README, are left out; in them every file must be an image.
    """
    images: list[Labelled] = []
    for file in tree.files:
        folder, _, inner = file.name.partition("/")
        if inner and not is_image(file.name):
            raise Rejected(f"{where / file.name} is no image ({', '.join(IMAGE_EXTENSIONS)}); remove or convert it")
        if inner:
            images.append(Labelled(folder, file))
        elif is_image(file.name):
            raise Rejected(f"{where / file.name} lies in no class folder; move it into one, or use the layout csv")
    folders = {name.partition("/")[0] for name in tree.folders}
    if empty := sorted(folders - {image.class_name for image in images}):
        raise Rejected(f"the class folder {where / empty[0]} holds no image; fill it or remove it")
    return images


def without_outer_folders(tree: Tree) -> Tree:
    """Archives often wrap the class folders in one more, which says nothing: `imagenet-r/n01443537/art_0.jpg`."""
    parents = [str(PurePosixPath(file.name).parent) for file in tree.files if is_image(file.name)]
    shared = PurePosixPath(os.path.commonpath(parents) if parents else "").parts
    # Of a single class the folder itself is shared too.
    outer = shared[:-1] if len(set(parents)) == 1 else shared
    return Tree(
        [file._replace(name="/".join(inner)) for file in tree.files if (inner := inside(file.name, outer))],
        ["/".join(inner) for name in tree.folders if (inner := inside(name, outer))],
    )


def inside(name: str, outer: tuple[str, ...]) -> tuple[str, ...]:
    """The parts of the name below the outer folder; none for what lies beside it."""
    parts = PurePosixPath(name).parts
    return parts[len(outer) :] if parts[: len(outer)] == outer else ()
