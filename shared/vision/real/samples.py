"""WebDataset shards (github.com/webdataset/webdataset): members of a tar that share a key are one sample."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from shared.errors import Rejected

from .archives import safe_name, tar_members
from .folders import IMAGE_EXTENSIONS, Labelled, StoredFile, is_hidden

CLASS_LIST = "classes.txt"
LABEL_EXTENSIONS = (".cls", ".json", ".txt")
MOST_LABEL_BYTES = 1 << 20

Sample = dict[str, StoredFile]


def read_samples(location: Path, classes: Sequence[str] | None) -> tuple[list[Labelled], Sequence[str] | None]:
    """The images of all shards, and the class ids in label order: as given, or from the list beside the shards."""
    shards = sorted(location.glob("*.tar"))
    if not shards:
        raise Rejected(f"{location} holds no .tar; give the folder of the shards")
    images = [image for shard in shards for image in images_of_shard(shard, known_as=shard)]
    class_list = location / CLASS_LIST
    if classes is None and class_list.is_file():
        classes = class_list.read_text(encoding="utf-8").splitlines()
    refuse_unknown_numbers(images, classes, class_list=class_list)
    return images, classes


def refuse_unknown_numbers(
    images: Sequence[Labelled], classes: Sequence[str] | None, *, class_list: Path | str
) -> None:
    if classes is None and any(image.class_name.isdecimal() for image in images):
        raise Rejected(f"the shards label images by number; write the class ids, one a line, to {class_list}")


def images_of_shard(shard: Path, *, known_as: Path | str) -> list[Labelled]:
    samples: dict[str, Sample] = {}
    for member in tar_members(shard, known_as=known_as):
        name = safe_name(member.name, known_as)
        if member.isdir() or is_hidden(name):
            continue
        key, extension = key_and_extension(name)
        parts = samples.setdefault(key, {})
        if extension in parts:
            raise Rejected(f"{known_as} holds {name} twice")
        parts[extension] = StoredFile(f"{shard.name}/{name}", str(shard), member.offset_data, member.size, member.size)
    with shard.open("rb") as file:
        return [labelled(parts, file, where=f"{known_as}/{key}") for key, parts in samples.items()]


def key_and_extension(name: str) -> tuple[str, str]:
    """Parted at the first dot of the last part, as WebDataset does: a/b.c/d.seg.png is a/b.c/d and .seg.png."""
    folder, separator, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    return f"{folder}{separator}{stem}", f"{dot}{extension.lower()}"


def labelled(parts: Sample, file: IO[bytes], *, where: str) -> Labelled:
    images = [extension for extension in IMAGE_EXTENSIONS if extension in parts]
    if len(images) != 1:
        has = ", ".join(sorted(parts))
        raise Rejected(f"{where} has {has}; a sample needs exactly one image, {', '.join(IMAGE_EXTENSIONS)}")
    return Labelled(class_name(parts, file, where=where), parts[images[0]])


def class_name(parts: Sample, file: IO[bytes], *, where: str) -> str:
    """A number or an id from KEY.cls, else "label" in KEY.json, else the text of KEY.txt."""
    for extension in LABEL_EXTENSIONS:
        if extension in parts:
            text = read_text(parts[extension], file, where=f"{where}{extension}")
            found = label_in_json(text, where=f"{where}{extension}") if extension == ".json" else text.strip()
            if found:
                return found
    raise Rejected(f'{where} has no label; a sample needs KEY.cls, KEY.json with a "label", or KEY.txt')


def read_text(part: StoredFile, file: IO[bytes], *, where: str) -> str:
    if part.file_bytes > MOST_LABEL_BYTES:
        raise Rejected(f"{where} has {part.file_bytes} bytes; a label has at most {MOST_LABEL_BYTES}")
    file.seek(part.offset)
    try:
        return file.read(part.stored_bytes).decode()
    except UnicodeDecodeError as error:
        raise Rejected(f"{where} is no UTF-8 text: {error}") from error


def label_in_json(text: str, *, where: str) -> str | None:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise Rejected(f"{where} is no JSON: {error}") from error
    label = content.get("label") if isinstance(content, dict) else None
    return None if label is None else str(label)
