"""A shard object: a WebDataset tar whose bytes follow from its images alone, readable one image at a time.

Members are `{class}_{slot:08d}.jpg`, `.cls`, `.json` in slot order with fixed times and owners. A leading POSIX pax
comment holds `[[slot, jpg bytes, cls bytes, json bytes], ...]`; other readers skip it, ours finds any image with two
range reads (POSIX.1-2001 pax interchange format, "Global Extended Header").
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from .errors import CorruptObject, NotFound
from .seeds import canonical_json

BLOCK = 512
HEAD_BYTES = 65_536  # enough for the index of 1,000 slots
EXTENSIONS = ("jpg", "cls", "json")


class Sample(NamedTuple):
    """One accepted image with everything needed to draw it again."""

    key: str
    slot: int
    jpeg: bytes
    number: int
    metadata: dict[str, JsonValue]


class Place(NamedTuple):
    """Where a sample's JPEG and JSON lie in the tar, in bytes."""

    jpeg_offset: int
    jpeg_bytes: int
    json_offset: int
    json_bytes: int


def class_number(class_id: str, class_key: str) -> int:
    """The same integer in every dataset: the WordNet offset, or 31 bits of the key for a class of the user's own.

    A shard is shared by datasets whose label orders differ, so a label cannot stand in it; manifests map to labels.
    """
    if class_id.startswith("n") and class_id[1:].isdigit():
        return int(class_id[1:])
    return int(class_key.rsplit("-", 1)[1][:8], 16) >> 1


def pack(samples: Sequence[Sample]) -> bytes:
    """The tar's bytes; the same samples give the same bytes."""
    members = [encode(sample) for sample in sorted(samples, key=lambda sample: sample.slot)]
    index = [[slot, *(len(data) for _, data in parts)] for slot, parts in members]
    buffer = io.BytesIO()
    # A global header before nothing is an error to tar readers, so an empty shard is a plain empty tar.
    headers = {"comment": json.dumps(index, separators=(",", ":"))} if index else {}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for _, parts in members:
            for name, data in parts:
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def encode(sample: Sample) -> tuple[int, list[tuple[str, bytes]]]:
    bodies = (sample.jpeg, str(sample.number).encode(), canonical_json(sample.metadata))
    return sample.slot, [(f"{sample.key}.{end}", body) for end, body in zip(EXTENSIONS, bodies, strict=True)]


def padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def read_index(head: bytes) -> dict[int, Place]:
    """Slot to place, from the first bytes of the object."""
    if len(head) >= BLOCK and not any(head[:BLOCK]):
        return {}
    try:
        with tarfile.open(fileobj=io.BytesIO(head[: padded(len(head))]), mode="r:") as tar:
            rows = json.loads(tar.pax_headers["comment"])
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise CorruptObject(f"shard has no readable index: {error}") from error
    offset = BLOCK + padded(int(head[124:136].rstrip(b"\0 ") or b"0", 8))
    places = {}
    for slot, jpeg_bytes, cls_bytes, json_bytes in rows:
        json_offset = offset + 3 * BLOCK + padded(jpeg_bytes) + padded(cls_bytes)
        places[slot] = Place(offset + BLOCK, jpeg_bytes, json_offset, json_bytes)
        offset = json_offset + padded(json_bytes)
    return places


def read_sample(read: Callable[[int, int], bytes], slot: int) -> tuple[bytes, dict[str, JsonValue]]:
    """JPEG and metadata of one slot; `read(offset, length)` is a range read of the object."""
    places = read_index(read(0, HEAD_BYTES))
    if slot not in places:
        raise NotFound(f"slot {slot} was never accepted")
    place = places[slot]
    span = read(place.jpeg_offset, place.json_offset + place.json_bytes - place.jpeg_offset)
    return span[: place.jpeg_bytes], json.loads(span[-place.json_bytes :])


def unpack(data: bytes) -> Iterable[tuple[int, bytes, dict[str, JsonValue]]]:
    """Every (slot, JPEG, metadata), in slot order."""
    for slot, place in read_index(data[:HEAD_BYTES]).items():
        jpeg = data[place.jpeg_offset : place.jpeg_offset + place.jpeg_bytes]
        metadata = data[place.json_offset : place.json_offset + place.json_bytes]
        if len(metadata) != place.json_bytes:
            raise CorruptObject(f"shard ends before slot {slot}")
        yield slot, jpeg, json.loads(metadata)
