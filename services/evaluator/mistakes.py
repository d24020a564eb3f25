"""Small pictures of photos that an encoder took for something else, to look at beside the numbers."""

import io
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import NamedTuple

from PIL import Image

from .predictions import Predictions

SIDE = 64
JPEG_QUALITY = 80
PHOTOS_PER_CLASS = 4
# Of one page; base64 makes a third more of them.
MOST_BYTES = 700_000

Photo = Callable[[int], Image.Image]


class Mistake(NamedTuple):
    """`class_id` is the true class, `taken_for` the other one's name; `jpeg` fits into SIDE x SIDE pixels."""

    class_id: str
    taken_for: str
    jpeg: bytes


def mistakes_in(found: Predictions, photo: Photo, *, most_bytes: int) -> list[Mistake]:
    """The first wrongly classified photos of each of the worst classes, in the report's order of these."""
    names = [each.name for each in found.report.per_class]
    shown: list[Mistake] = []
    room = most_bytes
    for class_id, index in in_turn(found):
        jpeg = thumbnail(photo(index))
        room -= len(jpeg)
        if room < 0:
            break
        shown.append(Mistake(class_id, names[int(found.predicted[index])], jpeg))
    order = [worst.id for worst in found.report.worst]
    return sorted(shown, key=lambda mistake: order.index(mistake.class_id))


def in_turn(found: Predictions) -> Iterator[tuple[str, int]]:
    """Class and position: one photo of each class before the second of any, so that a lack of room is shared."""
    label_of = {each.id: label for label, each in enumerate(found.report.per_class)}
    columns = [[(worst.id, index) for index in wrong_of(found, label_of[worst.id])] for worst in found.report.worst]
    for row in zip_longest(*columns):
        yield from (place for place in row if place is not None)


def wrong_of(found: Predictions, label: int) -> list[int]:
    """Positions of the first photos of this class that were taken for another."""
    wrong = (found.labels == label) & (found.predicted != label)
    positions: list[int] = wrong.nonzero().flatten()[:PHOTOS_PER_CLASS].tolist()
    return positions


def thumbnail(photo: Image.Image) -> bytes:
    small = photo.copy()
    small.thumbnail((SIDE, SIDE))
    small.info = {}  # a comment or a colour profile can be larger than the picture
    data = io.BytesIO()
    small.save(data, "JPEG", quality=JPEG_QUALITY)
    return data.getvalue()
