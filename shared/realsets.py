"""The register of real image sets. Each has one role: what a network is tested on is never trained on."""

from typing import Literal, NamedTuple

from .classes import listed_wnids
from .errors import Rejected

Role = Literal["train", "test"]


class RealSet(NamedTuple):
    """What the API needs to know of a set; the services read its pixels."""

    name: str
    role: Role
    class_ids: tuple[str, ...]
    images: int


def registered_sets() -> dict[str, RealSet]:
    digits = listed_wnids("digits")
    sets = (RealSet("digits-train", "train", digits, 1257), RealSet("digits", "test", digits, 540))
    return {known.name: known for known in sets}


def training_set(name: str) -> RealSet:
    known = find_set(name, pointer="/real")
    if known.role != "train":
        raise Rejected(f"{name} is registered as a test set and cannot be trained on", pointer="/real")
    return known


def benchmark(name: str) -> RealSet:
    known = find_set(name, pointer="/benchmarks")
    if known.role != "test":
        raise Rejected(f"{name} is registered as a training set and cannot be tested on", pointer="/benchmarks")
    return known


def find_set(name: str, *, pointer: str) -> RealSet:
    sets = registered_sets()
    if name not in sets:
        listed = ", ".join(f"{known.name} ({known.role})" for known in sets.values())
        raise Rejected(f"unknown real image set {name[:50]!r}; known: {listed}", pointer=pointer)
    return sets[name]
