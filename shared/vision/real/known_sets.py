"""The sets that test a network trained on ImageNet's classes, as they are published: their classes and sizes."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from shared.classes import listed_wnids
from shared.errors import Rejected

from .archives import Unpacking
from .layouts import Layout, read_listing
from .listings import Listing


class KnownSet(NamedTuple):
    """`class_ids` are sorted WordNet ids: label order."""

    class_ids: Callable[[], tuple[str, ...]]
    images: int


def in1k_wnids() -> tuple[str, ...]:
    return listed_wnids("in1k")


def rendition_wnids() -> tuple[str, ...]:
    """The 200 classes of ImageNet-R (Hendrycks et al. 2021), by timm's list."""
    return timm_wnids("imagenet_r_synsets.txt")


def adversarial_wnids() -> tuple[str, ...]:
    """The 200 classes of ImageNet-A (Hendrycks et al. 2021), by timm's list."""
    return timm_wnids("imagenet_a_synsets.txt")


def timm_wnids(file: str) -> tuple[str, ...]:
    return tuple(sorted(files("timm.data").joinpath("_info", file).read_text().split()))


KNOWN_SETS = {
    "imagenet-train": KnownSet(in1k_wnids, 1_281_167),
    "imagenet-val": KnownSet(in1k_wnids, 50_000),
    "imagenet-v2-matched-frequency": KnownSet(in1k_wnids, 10_000),
    "imagenet-v2-threshold-0.7": KnownSet(in1k_wnids, 10_000),
    "imagenet-v2-top-images": KnownSet(in1k_wnids, 10_000),
    "imagenet-sketch": KnownSet(in1k_wnids, 50_889),
    "imagenet-r": KnownSet(rendition_wnids, 30_000),
    "imagenet-a": KnownSet(adversarial_wnids, 7_500),
}


def read_known_set(
    kind: str, layout: Layout, location: Path, *, strict: bool = True, unpacking: Unpacking | None = None
) -> Listing:
    """A copy of a published set; raises Rejected where it is not whole.

    `strict=False` is for cuts made to try things.
    """
    if kind not in KNOWN_SETS:
        raise Rejected(f"unknown set {kind!r}; known: {', '.join(KNOWN_SETS)}")
    listing = read_listing(layout, location, classes=KNOWN_SETS[kind].class_ids(), unpacking=unpacking)
    if strict:
        check_known_set(kind, listing)
    return listing


def check_known_set(kind: str, listing: Listing) -> None:
    known = KNOWN_SETS[kind]
    check_counts(kind, listing, classes=len(known.class_ids()), images=known.images)


def check_counts(title: str, listing: Listing, *, classes: int, images: int | None) -> None:
    """Raises Rejected; None where the number of images is not published."""
    wrong = [
        f"{found:,} {what}, {expected:,} expected"
        for what, found, expected in (
            ("images", len(listing), images),
            ("classes with images", listing.classes_present(), classes),
        )
        if expected is not None and found != expected
    ]
    if wrong:
        raise Rejected(f"wrong counts: {title} in {listing.root} has {'; '.join(wrong)}; is the copy whole?")
