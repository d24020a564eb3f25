"""Which classes a dataset has, in label order, and the text known about each."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .errors import Rejected
from .lexicon import Lexicon

DATA = Path(__file__).parent / "data"
LIST_NAMES = ("in1k", "in100", "digits")
DEFAULT_IMAGES_PER_CLASS = 1300
MOST_CLASSES = 25_000
WORDNET_ID = re.compile(r"n\d{8}", re.ASCII)


def check_printable(text: str) -> str:
    # PostgreSQL stores no NUL, and a prompt with a line break is a slip in the caller's quoting.
    if not text.isprintable():
        raise ValueError(f"{text[:50]!r} has control characters or line breaks")
    return text


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_printable)]
Sentence = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(check_printable)]


class ClassText(BaseModel):
    """A class as the prompts see it: `id` is a WordNet id, or a slug of the name the user gave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    names: tuple[str, ...]
    hypernym: str | None = None
    description: str | None = None
    captions: tuple[str, ...] = ()


class CustomClass(BaseModel):
    """A class that WordNet does not know, or that the user wants to word."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    name: Name
    hypernym: Sentence | None = Field(None, description="What kind of thing it is.")
    description: Sentence | None = Field(None, description="A definition of one sentence.")
    captions: tuple[Sentence, ...] = Field((), max_length=10_000, description="Whole prompts, cycled by slot.")


ClassSelection = (
    Annotated[str, Field(max_length=100)]
    | Annotated[list[str | CustomClass], Field(min_length=1, max_length=MOST_CLASSES)]
)


class ClassList(BaseModel):
    """A list that ships with the project; `images` is what size 1x means for each class."""

    model_config = ConfigDict(frozen=True)

    name: str
    size: int
    wnids: tuple[str, ...]
    images: dict[str, int]


@lru_cache
def class_lists() -> tuple[ClassList, ...]:
    return tuple(read_list(name) for name in LIST_NAMES)


def read_list(name: str) -> ClassList:
    """Lines of the file are "wnid" or "wnid count"; the real counts of in1k and in100 are not published with them."""
    lines = [line.split() for line in (DATA / f"{name}.txt").read_text().splitlines()]
    images = {wnid: int(count[0]) if count else DEFAULT_IMAGES_PER_CLASS for wnid, *count in lines}
    return ClassList(name=name, size=len(images), wnids=tuple(sorted(images)), images=images)


def images_at_1x(selection: ClassSelection, class_id: str) -> int:
    """Images of a class at size 1x: as many as the real data set has, where that is known."""
    for known in class_lists():
        if known.name == selection:
            return known.images[class_id]
    return DEFAULT_IMAGES_PER_CLASS


def resolve_classes(selection: ClassSelection, lexicon: Lexicon) -> tuple[ClassText, ...]:
    """The classes in label order: WordNet ids sorted, classes of the user's own as given.

    Raises Rejected with a JSON pointer to the item at fault.
    """
    if isinstance(selection, str):
        return tuple(wordnet_class(wnid, lexicon) for wnid in listed_wnids(selection))
    if not selection:
        raise Rejected("classes is empty; name at least one class", pointer="/classes")
    if isinstance(selection[0], str):
        ids = check_wnids(selection, lexicon)
        refuse_duplicates(ids)
        return tuple(wordnet_class(wnid, lexicon) for wnid in sorted(ids))
    classes = tuple(custom_class(item, position) for position, item in enumerate(selection))
    refuse_duplicates([known.id for known in classes])
    return classes


def listed_wnids(name: str) -> tuple[str, ...]:
    for known in class_lists():
        if known.name == name:
            return known.wnids
    hint = f"; a single class is written [{name!r}]" if WORDNET_ID.fullmatch(name) else ""
    raise Rejected(f"unknown class list {name!r}; known: {', '.join(LIST_NAMES)}{hint}", pointer="/classes")


def check_wnids(items: Sequence[str | CustomClass], lexicon: Lexicon) -> list[str]:
    wnids = []
    for position, item in enumerate(items):
        pointer = f"/classes/{position}"
        if isinstance(item, CustomClass):
            raise Rejected(f"{item.name!r} stands among WordNet ids; give only ids or only names", pointer=pointer)
        if item not in lexicon:
            raise Rejected(unknown_id(item), pointer=pointer)
        wnids.append(item)
    return wnids


def unknown_id(item: str) -> str:
    if WORDNET_ID.fullmatch(item):
        return f"{item} is no noun of WordNet 3.0"
    lists = ", ".join(LIST_NAMES)
    shown = item[:50]
    return (
        f"{shown!r} is no WordNet id such as n02012849; for a class of your own write {{'name': {shown!r}}}, "
        f"for a whole list its name alone: {lists}"
    )


def wordnet_class(wnid: str, lexicon: Lexicon) -> ClassText:
    entry = lexicon.entry(wnid)
    return ClassText(id=wnid, names=entry.names, hypernym=entry.hypernym or None, description=entry.description)


def custom_class(item: str | CustomClass, position: int) -> ClassText:
    pointer = f"/classes/{position}"
    if isinstance(item, str):
        raise Rejected(f"{item[:50]!r} stands among named classes; give only ids or only names", pointer=pointer)
    if WORDNET_ID.fullmatch(item.name):
        raise Rejected(f"{item.name} is a WordNet id; write it as a string, not as a name", pointer=pointer)
    return ClassText(
        id=slug(item.name),
        names=(item.name,),
        hypernym=item.hypernym,
        description=item.description,
        captions=item.captions,
    )


def slug(name: str) -> str:
    """a-z, 0-9 and "-"; names that lose letters on the way keep apart by a digest ("C", "C++", "猫")."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    plain = "-".join(words)
    if re.fullmatch(r"[A-Za-z0-9 _-]*", name) and plain:
        return plain
    return "-".join([*words, hashlib.sha256(name.encode()).hexdigest()[:8]])


def refuse_duplicates(ids: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for position, known in enumerate(ids):
        if known in first:
            raise Rejected(
                f"{known} is given twice, at positions {first[known]} and {position}", pointer=f"/classes/{position}"
            )
        first[known] = position
