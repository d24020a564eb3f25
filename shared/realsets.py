"""The register of real image sets. Each has one role: what a network is tested on is never trained on."""

from typing import Literal, NamedTuple, cast

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from .classes import listed_wnids
from .errors import Rejected
from .frozen import Frozen
from .tables import RealImageSet

Role = Literal["train", "test", "transfer"]
USED_FOR = {"train": "trained on", "test": "tested on", "transfer": "used as a transfer set"}
LISTED = {"train": "training", "test": "test", "transfer": "transfer"}


class SetObject(Frozen):
    """A shard of a set in the object store, or its list of classes, as it was when the set was registered."""

    key: str
    bytes: int
    sha256: str


SET_OBJECTS = TypeAdapter(tuple[SetObject, ...])


class RealPlace(NamedTuple):
    """Where a registered set lies, and the digest of its listing at that time (shared/vision/real).

    Only a set in the object store has `objects`.
    """

    kind: str | None
    layout: str | None
    location: str
    digest: str
    objects: tuple[SetObject, ...] = ()


class RealSet(NamedTuple):
    """What the API needs to know of a set; the services read its pixels. A set without a place is built in.

    `crop_pct` is the side of the square shown to a network in shares of the resized short side.
    """

    name: str
    role: Role
    class_ids: tuple[str, ...]
    images: int
    crop_pct: float
    place: RealPlace | None = None
    test_images: int | None = None


def built_in_sets() -> tuple[RealSet, ...]:
    digits = listed_wnids("digits")
    return (RealSet("digits-train", "train", digits, 1257, 1.0), RealSet("digits", "test", digits, 540, 1.0))


def registered_sets(session: Session) -> dict[str, RealSet]:
    rows = session.scalars(select(RealImageSet).order_by(RealImageSet.name))
    return {known.name: known for known in (*built_in_sets(), *map(as_real_set, rows))}


def as_real_set(row: RealImageSet) -> RealSet:
    place = RealPlace(row.kind, row.layout, row.location, row.digest, set_objects(row))
    role = cast(Role, row.role)
    return RealSet(row.name, role, tuple(row.class_ids), row.images, row.crop_pct, place, row.test_images)


def set_objects(row: RealImageSet) -> tuple[SetObject, ...]:
    return SET_OBJECTS.validate_python(row.objects or ())


def training_set(session: Session, name: str) -> RealSet:
    return find_set(session, name, "train", pointer="/real")


def benchmark(session: Session, name: str, *, pointer: str = "/benchmarks") -> RealSet:
    return find_set(session, name, "test", pointer=pointer)


def transfer_set(session: Session, name: str, *, pointer: str = "/transfer") -> RealSet:
    return find_set(session, name, "transfer", pointer=pointer)


def compared_set(session: Session, name: str, *, pointer: str = "/distances") -> RealSet:
    """A training or a test set: nothing is learnt from a comparison."""
    found = named_set(session, name, pointer=pointer)
    if found.role == "transfer":
        raise Rejected(
            f"{name} is registered as a transfer set and cannot be compared with datasets; name a training or test set",
            pointer=pointer,
        )
    return found


def find_set(session: Session, name: str, role: Role, *, pointer: str) -> RealSet:
    found = named_set(session, name, pointer=pointer)
    if found.role != role:
        raise Rejected(
            f"{name} is registered as a {LISTED[found.role]} set and cannot be {USED_FOR[role]}", pointer=pointer
        )
    return found


def named_set(session: Session, name: str, *, pointer: str) -> RealSet:
    # One row, not the whole register: an experiment asks thousands of times, and a row can be megabytes.
    row = session.get(RealImageSet, name) if name.isprintable() else None  # PostgreSQL takes no NUL
    if row is not None:
        return as_real_set(row)
    known = {known.name: known for known in built_in_sets()}
    if name not in known:
        known = registered_sets(session)
        listed = ", ".join(f"{each.name} ({each.role})" for each in known.values())
        raise Rejected(
            f"unknown real image set {name[:50]!r}; known: {listed}; `synthclone testsets add` registers another",
            pointer=pointer,
        )
    return known[name]
