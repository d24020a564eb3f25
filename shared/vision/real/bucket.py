"""WebDataset shards in the object store: read once when a set is registered, then through the cache of shards."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from shared.errors import NotFound, Rejected, Unavailable
from shared.objects import Entry, ObjectStore
from shared.realsets import RealSet, SetObject
from shared.stored.cache import ShardCache

from .folders import Labelled, is_hidden
from .listings import Listing, make_listing
from .samples import CLASS_LIST, images_of_shard, refuse_unknown_numbers

# What trainers and evaluators may read of an operator's own objects (deploy/policies).
AREA = "real/"
SCHEME = "s3://"
# A shard passes through memory as a whole.
MOST_SHARD_BYTES = 4 << 30


class Bucket(NamedTuple):
    """Where sets in the object store are read from, and where this machine keeps their shards."""

    store: ObjectStore
    cache: ShardCache


class StoredSet(NamedTuple):
    """Where a set lies in the object store; `prefix` ends with a slash."""

    store: ObjectStore
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}"


def stored_set(address: str, store: ObjectStore, *, bucket: str) -> StoredSet:
    """Of s3://BUCKET/real/..., which must be the services' own bucket."""
    named, _, key = address.removeprefix(SCHEME).partition("/")
    prefix = f"{key.strip('/')}/"
    if named != bucket or not prefix.startswith(AREA) or prefix == AREA:
        raise Rejected(
            f"{address[:200]} is not below {SCHEME}{bucket}/{AREA}, all that trainers and evaluators may read; "
            "copy the shards there"
        )
    return StoredSet(store, bucket, prefix)


def read_stored(
    place: StoredSet, classes: Sequence[str] | None, *, cache_dir: Path
) -> tuple[Listing, tuple[SetObject, ...]]:
    """Every image with its label, and every object with its digest. A shard is on the disk while it is indexed only."""
    images: list[Labelled] = []
    objects: list[SetObject] = []
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
        for entry in set_entries(place.store, place.prefix):
            data = place.store.get(entry.key)
            objects.append(SetObject(key=entry.key, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
            if name_of(entry.key) == CLASS_LIST:
                classes = data.decode().splitlines() if classes is None else classes
            else:
                images += index_shard(data, Path(folder, name_of(entry.key)), known_as=f"{place}{name_of(entry.key)}")
    if not images:
        raise Rejected(f"{place} holds no .tar with an image; give the prefix of the shards")
    refuse_unknown_numbers(images, classes, class_list=f"{place}{CLASS_LIST}")
    return make_listing(images, classes, root=str(place)), tuple(objects)


def index_shard(data: bytes, file: Path, *, known_as: str) -> list[Labelled]:
    file.write_bytes(data)
    try:
        return images_of_shard(file, known_as=known_as)
    finally:
        file.unlink()


def set_entries(store: ObjectStore, prefix: str) -> Iterator[Entry]:
    """The shards and the list of classes directly below the prefix; whatever else lies there is left out."""
    for entry in store.entries(prefix):
        name = entry.key.removeprefix(prefix)
        if "/" in name or is_hidden(name) or not (name.endswith(".tar") or name == CLASS_LIST):
            continue
        if entry.size_bytes > MOST_SHARD_BYTES:
            raise Rejected(f"{entry.key} has {entry.size_bytes:,} bytes; a shard may have {MOST_SHARD_BYTES:,}")
        yield entry


def name_of(key: str) -> str:
    return PurePosixPath(key).name


def on_disk(known: RealSet, bucket: Bucket, *, cache_dir: Path) -> RealSet:
    """The set as its readers take it: one of the bucket lies in a folder here, until the cache lets go of it.

    Raises Rejected where the bucket's objects are not those that were registered.
    """
    if known.place is None or not known.place.objects:
        return known
    refuse_other_objects(known, bucket.store)
    bucket.cache.hold(known.place.objects)
    folder = folder_of_links(known.name, known.place.objects, bucket, cache_dir=cache_dir)
    return known._replace(place=known.place._replace(location=str(folder)))


def folder_of_links(name: str, objects: Sequence[SetObject], bucket: Bucket, *, cache_dir: Path) -> Path:
    """The cached shards under the names that they have in the bucket."""
    identity = "".join(f"{name_of(part.key)}\0{part.sha256}\n" for part in objects)
    folder = cache_dir / hashlib.sha256(identity.encode()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in objects:
            file = bucket.cache.get(part, partial(registered_bytes, bucket.store, part, name=name))
            with suppress(FileExistsError):
                (folder / name_of(part.key)).symlink_to(os.path.relpath(file, folder))
    except OSError as error:
        raise Unavailable(f"cannot write to {folder}: {error.strerror}; free some space") from error
    return folder


def refuse_other_objects(known: RealSet, store: ObjectStore) -> None:
    """By names and sizes: what is cached is not read again, so other bytes of the same size only show elsewhere."""
    assert known.place is not None
    registered = {part.key: part.bytes for part in known.place.objects}
    prefix = f"{PurePosixPath(known.place.objects[0].key).parent}/"
    found = {entry.key: entry.size_bytes for entry in set_entries(store, prefix)}
    if different := sorted(registered.items() ^ found.items()):
        raise changed(different[0][0], known.name)


def registered_bytes(store: ObjectStore, part: SetObject, *, name: str) -> bytes:
    try:
        data = store.get(part.key)
    except NotFound as error:
        raise changed(part.key, name) from error
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise changed(part.key, name)
    return data


def changed(key: str, name: str) -> Rejected:
    return Rejected(
        f"object {key} is not as it was when {name} was registered; restore it, or remove the set and register it again"
    )
