"""Sets as an operator registers them: read once then, and held against that whenever they are used."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.database import database_now
from shared.errors import Conflict, NotFound, Rejected
from shared.realsets import LISTED, RealSet, Role, SetObject, as_real_set, built_in_sets, set_objects
from shared.tables import RealImageSet

from .archives import Unpacking
from .bucket import StoredSet, read_stored
from .known_sets import KNOWN_SETS, check_known_set, read_known_set
from .layouts import Layout, read_listing
from .listings import Listing
from .transfer import TRANSFER_SETS, TransferSet, read_transfer_set

TRAINING_KINDS = ("imagenet-train",)
MOST_UNPACKED_BYTES = 1 << 40


class NewSet(NamedTuple):
    """What an operator says of a set. `kind` names a published one, whose counts must then agree unless
    `allow_other_counts`; `classes` restricts it to these class ids, in label order."""

    name: str
    location: Path | StoredSet
    kind: str | None = None
    role: Role | None = None
    layout: Layout = "imagefolder"
    classes: Sequence[str] | None = None
    crop_pct: float = 0.875
    allow_other_counts: bool = False


class Inspected(NamedTuple):
    """What was read of a set. `whole` is the listing before it was cut to `new.classes`; `tested` is a transfer set's
    test part; `objects` are those of a set in the object store."""

    new: NewSet
    role: Role
    whole: Listing
    listing: Listing
    tested: Listing | None
    digest: str
    objects: tuple[SetObject, ...]


def inspect(new: NewSet, *, cache_dir: Path) -> Inspected:
    """Read the whole listing, which takes minutes for a large set. Raises Rejected for what does not fit."""
    role = role_of(new)
    if not (new.name.isascii() and new.name.replace("-", "").replace(".", "").isalnum() and len(new.name) <= 100):
        raise Rejected(f"name {new.name[:50]!r} may have letters, digits, dots and hyphens only")
    if not 0.1 <= new.crop_pct <= 1:
        raise Rejected(f"crop_pct {new.crop_pct} is not between 0.1 and 1")
    objects: tuple[SetObject, ...] = ()
    tested = None
    if isinstance(new.location, StoredSet):
        whole, objects = read_new_stored(new, role, new.location, cache_dir)
    else:
        location = new.location.resolve()
        new = new._replace(location=location)
        whole, tested = read_new(new, role, location, cache_dir)
    listing = whole if new.classes is None else whole.restricted_to(new.classes)
    return Inspected(new, role, whole, listing, tested, digest_of(listing, tested), objects)


def refuse_taken(session: Session, name: str) -> None:
    if session.get(RealImageSet, name) or name in {known.name for known in built_in_sets()}:
        raise Conflict(f"{name} is registered already; remove it first or give another name")


def register(session: Session, found: Inspected) -> RealSet:
    """Write it down. Raises Conflict for a taken name, Rejected where another role has its images."""
    new, listing, tested = found.new, found.listing, found.tested
    refuse_taken(session, new.name)
    refuse_other_role(session, found)
    row = RealImageSet(
        name=new.name,
        role=found.role,
        kind=new.kind,
        layout=None if found.role == "transfer" else new.layout,
        location=str(new.location),
        class_ids=list(listing.class_ids),
        images=len(listing),
        test_images=None if tested is None else len(tested),
        digest=found.digest,
        crop_pct=new.crop_pct,
        objects=[part.model_dump(mode="json") for part in found.objects] or None,
        created_at=database_now(session),
    )
    session.add(row)
    session.flush()
    return as_real_set(row)


def role_of(new: NewSet) -> Role:
    published: Role | None = None
    if new.kind in TRAINING_KINDS:
        published = "train"
    elif new.kind in KNOWN_SETS:
        published = "test"
    elif new.kind in TRANSFER_SETS:
        published = "transfer"
    elif new.kind is not None:
        known = ", ".join((*KNOWN_SETS, *TRANSFER_SETS))
        raise Rejected(f"unknown kind {new.kind[:50]!r}; known: {known}; leave it out for a set of your own")
    if published is None and new.role is None:
        raise Rejected(f"give the role of {new.name}: train or test; what is tested on is never trained on")
    if published is not None and new.role not in (None, published):
        raise Rejected(f"{new.kind} is a {LISTED[published]} set and cannot be registered as a {new.role} set")
    return cast(Role, published or new.role)


def read_new(new: NewSet, role: Role, location: Path, cache_dir: Path) -> tuple[Listing, Listing | None]:
    if role == "transfer":
        if new.kind is None or new.classes is not None:
            raise Rejected("a transfer set is registered by its kind and with all its classes")
        found = read_transfer_set(new.kind, location, strict=not new.allow_other_counts)
        return found.train, found.test
    return read_whole(new.kind, new.layout, location, cache_dir, strict=not new.allow_other_counts), None


def read_new_stored(
    new: NewSet, role: Role, place: StoredSet, cache_dir: Path
) -> tuple[Listing, tuple[SetObject, ...]]:
    if role == "transfer" or new.layout != "webdataset":
        raise Rejected(f"{place} can only hold WebDataset shards of a training or test set; give --layout webdataset")
    classes = KNOWN_SETS[new.kind].class_ids() if new.kind is not None else None
    listing, objects = read_stored(place, classes, cache_dir=cache_dir)
    if new.kind is not None and not new.allow_other_counts:
        check_known_set(new.kind, listing)
    return listing, objects


def read_whole(kind: str | None, layout: Layout, location: Path, cache_dir: Path, *, strict: bool) -> Listing:
    unpacking = Unpacking(cache_dir, MOST_UNPACKED_BYTES)
    if kind is None:
        return read_listing(layout, location, unpacking=unpacking)
    return read_known_set(kind, layout, location, strict=strict, unpacking=unpacking)


def refuse_other_role(session: Session, found: Inspected) -> None:
    """The same files under another name and role would let a network be tested on what it saw."""
    for other in session.scalars(select(RealImageSet).where(RealImageSet.role != found.role)):
        if other.digest == found.digest or holds_images_of(found.whole, other):
            raise Rejected(f"the same images are registered as the {LISTED[other.role]} set {other.name}")
        if shares_files(found, other):
            raise Rejected(
                f"{found.new.location} shares files with {other.location}, registered as the {LISTED[other.role]} set "
                f"{other.name}; give the two roles folders of their own"
            )


def holds_images_of(whole: Listing, other: RealImageSet) -> bool:
    """Whether another copy of these files, cut to its classes, is what was registered."""
    if not set(other.class_ids) <= set(whole.class_ids):
        return False
    cut = whole.restricted_to(other.class_ids)
    return len(cut) == other.images and cut.digest() == other.digest


def shares_files(found: Inspected, other: RealImageSet) -> bool:
    if isinstance(found.new.location, StoredSet):
        theirs = {part.sha256 for part in set_objects(other)}
        return any(part.sha256 in theirs for part in found.objects if part.key.endswith(".tar"))
    return not other.objects and lies_with(found, found.new.location, Path(other.location))


def lies_with(found: Inspected, own: Path, location: Path) -> bool:
    """Whether the set, which lies in `own`, lies in `location` or has an image there."""
    below = f"{location}/"
    if own.is_relative_to(location) or not location.is_relative_to(own):
        return own.is_relative_to(location)
    parts = [found.whole] if found.tested is None else [found.whole, found.tested]
    return any(f"{entry.path}/".startswith(below) for listing in parts for entry in listing)


def open_set(known: RealSet, *, cache_dir: Path) -> Listing:
    """A registered training or test set, which is `on_disk`.

    Raises Rejected when its files are not those that were registered.
    """
    assert known.place is not None
    layout, location = cast(Layout, known.place.layout), Path(known.place.location)
    whole = read_whole(known.place.kind, layout, location, cache_dir, strict=False)
    listing = whole.restricted_to(known.class_ids)
    check_unchanged(known, listing, None)
    return listing


def open_transfer_set(known: RealSet) -> TransferSet:
    assert known.place is not None
    assert known.place.kind is not None
    found = read_transfer_set(known.place.kind, Path(known.place.location), strict=False)
    check_unchanged(known, found.train, found.test)
    return found


def digest_of(listing: Listing, tested: Listing | None) -> str:
    if tested is None:
        return listing.digest()
    return hashlib.sha256(f"{listing.digest()} {tested.digest()}".encode()).hexdigest()


def check_unchanged(known: RealSet, listing: Listing, tested: Listing | None) -> None:
    assert known.place is not None
    if digest_of(listing, tested) != known.place.digest:
        found = len(listing) + (0 if tested is None else len(tested))
        raise Rejected(
            f"{known.place.location} has {found:,} images with other names, sizes or classes than the "
            f"{known.images + (known.test_images or 0):,} that were registered as {known.name}; "
            "remove it and register it again"
        )


def remove(session: Session, name: str) -> None:
    row = session.get(RealImageSet, name)
    if row is None:
        raise NotFound(f"no real image set {name[:50]!r} is registered; `synthclone testsets list` shows them")
    session.delete(row)
    session.flush()  # or a look-up in the same transaction still finds it
