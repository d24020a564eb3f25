"""Sets of WebDataset shards in the object store, registered and read back through the cache."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shared.vision.digits import DIGIT_WNIDS
from shared.vision.real.bucket import Bucket, on_disk, stored_set
from shared.vision.real.listings import Listing, read_bytes
from shared.vision.real.registered import NewSet, inspect, open_set, register

import pytest

from shared.database import Database
from shared.errors import Rejected, Unavailable
from shared.objects import Entry
from shared.realsets import RealSet, benchmark
from shared.schema import upgrade
from shared.storage import LocalStore, ObjectStore, S3Store
from shared.stored.cache import ShardCache
from tests.s3_servers import moto, s3_settings
from tests.shared.real.layouts import small_images, write_imagefolder, write_webdataset

IMAGES = small_images()
PREFIX = "real/photos/"
ADDRESS = "s3://synthclone/real/photos"


class Place(NamedTuple):
    database: Database
    store: ObjectStore
    folder: Path

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.store, ShardCache(self.folder / "cache/shards", min_free_bytes=0))

    @property
    def cache_dir(self) -> Path:
        return self.folder / "cache/realsets"

    def add(self, address: str = ADDRESS, name: str = "photos", **said: object) -> RealSet:
        location = stored_set(address, self.store, bucket="synthclone")
        new = NewSet(name, location, role="test", layout="webdataset")._replace(**said)  # type: ignore[arg-type]
        found = inspect(new, cache_dir=self.cache_dir)
        with self.database.write() as session:
            return register(session, found)

    def read(self, name: str = "photos") -> Listing:
        with self.database.read() as session:
            known = benchmark(session, name)
        return open_set(on_disk(known, self.bucket, cache_dir=self.cache_dir), cache_dir=self.cache_dir)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    database = Database(f"sqlite:///{tmp_path}/test.db")
    upgrade(database)
    return Place(database, LocalStore(tmp_path / "objects"), tmp_path)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_webdataset(tmp_path / "shards", IMAGES)


@pytest.fixture
def stored(place: Place, shards: Path) -> Place:
    upload(place.store, shards)
    return place


def upload(store: ObjectStore, folder: Path, prefix: str = PREFIX) -> None:
    for file in folder.iterdir():
        store.put(f"{prefix}{file.name}", file.read_bytes())


class Deaf:
    """A store that only lists: whatever is read must be on the disk already."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def entries(self, prefix: str) -> Iterator[Entry]:
        return self.store.entries(prefix)

    def get(self, key: str) -> bytes:
        raise Unavailable(f"{key} is read again")


def test_a_set_of_the_bucket_is_read_as_its_shards_say(stored: Place) -> None:
    assert stored.add().class_ids == DIGIT_WNIDS
    listing = stored.read()
    in_order = sorted(IMAGES, key=lambda image: image.data)
    assert sorted(read_bytes(entry) for entry in listing) == [image.data for image in in_order]
    labels = {read_bytes(entry): entry.label for entry in listing}
    assert labels == {image.data: image.label for image in IMAGES}


def test_its_digest_is_that_of_a_folder_with_the_same_shards(stored: Place, shards: Path) -> None:
    folder = inspect(NewSet("x", shards, role="test", layout="webdataset"), cache_dir=stored.cache_dir)
    known = stored.add()
    assert known.place is not None
    assert known.place.digest == folder.digest


def test_registering_leaves_no_shard_on_the_disk(stored: Place) -> None:
    stored.add()
    assert [path for path in (stored.folder / "cache").rglob("*") if path.is_file()] == []


def test_a_shard_is_downloaded_once(stored: Place) -> None:
    stored.add()
    first = stored.read()
    again = stored._replace(store=Deaf(stored.store)).read()  # type: ignore[arg-type]
    assert [read_bytes(entry) for entry in again] == [read_bytes(entry) for entry in first]


def test_a_shard_that_made_room_is_downloaded_again(stored: Place) -> None:
    stored.add()
    stored.read()
    for file in (stored.folder / "cache/shards").glob("*.tar"):
        file.unlink()
    assert len([read_bytes(entry) for entry in stored.read()]) == len(IMAGES)


def rewritten(store: ObjectStore, shards: Path) -> None:
    data = bytearray((shards / "0000.tar").read_bytes())
    data[-1] ^= 1
    store.put(f"{PREFIX}0000.tar", bytes(data))


def grown(store: ObjectStore, shards: Path) -> None:
    store.put(f"{PREFIX}0000.tar", (shards / "0000.tar").read_bytes() + bytes(512))


def lost(store: ObjectStore, shards: Path) -> None:
    store.delete(f"{PREFIX}0000.tar")


def added(store: ObjectStore, shards: Path) -> None:
    store.put(f"{PREFIX}0000.tar.tar", (shards / "0000.tar").read_bytes())


@pytest.mark.parametrize("change", [rewritten, grown, lost, added])
def test_a_set_whose_objects_changed_is_refused(stored: Place, shards: Path, change: object) -> None:
    assert callable(change)
    stored.add()
    change(stored.store, shards)
    with pytest.raises(Rejected, match=r"object real/photos/0000\S+ is not as it was when photos was registered; rest"):
        stored.read()


def test_what_lies_beside_and_below_the_shards_is_left_out(stored: Place, shards: Path) -> None:
    upload(stored.store, shards, f"{PREFIX}deeper/")
    stored.store.put(f"{PREFIX}README.md", b"photos")
    stored.store.put("real/photos2/0000.tar", b"another set")
    assert stored.add().images == len(IMAGES)
    assert len(stored.read()) == len(IMAGES)


@pytest.mark.parametrize("role", ["train", "test"])
def test_shards_cannot_have_two_roles(stored: Place, shards: Path, role: str) -> None:
    stored.add(role=role)
    stored.store.put("real/again/0007.tar", (shards / "0001.tar").read_bytes())
    stored.store.put("real/again/classes.txt", (shards / "classes.txt").read_bytes())
    other = {"train": "test", "test": "train"}[role]
    with pytest.raises(Rejected, match=r"s3://synthclone/real/again/ shares files with s3://synthclone/real/photos/"):
        stored.add("s3://synthclone/real/again", "again", role=other)
    assert stored.add("s3://synthclone/real/again", "again", role=role).images == 16


def test_another_set_with_the_same_list_of_classes_may_have_another_role(stored: Place, tmp_path: Path) -> None:
    upload(stored.store, write_webdataset(tmp_path / "others", small_images(7)[-10:]), "real/others/")
    stored.add()
    assert stored.add("s3://synthclone/real/others/", "others", role="train").images == 10


def test_a_folder_may_have_another_role_than_a_set_in_the_bucket(stored: Place, tmp_path: Path) -> None:
    stored.add()
    root = write_imagefolder(tmp_path / "folder", small_images(7)[-10:])
    found = inspect(NewSet("folder", root, role="train"), cache_dir=stored.cache_dir)
    with stored.database.write() as session:
        assert register(session, found).images == 10


@pytest.mark.parametrize(
    "address",
    ["s3://other/real/photos", "s3://synthclone/images/photos", "s3://synthclone/real", "s3://synthclone/realx/y"],
)
def test_only_what_the_services_may_read_can_be_registered(stored: Place, address: str) -> None:
    with pytest.raises(Rejected, match="is not below s3://synthclone/real/, all that trainers and evaluators may read"):
        stored.add(address)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"layout": "imagefolder"}, "s3://synthclone/real/photos/ can only hold WebDataset shards .* --layout webdata"),
        ({"kind": "pets", "role": None}, "can only hold WebDataset shards of a training or test set"),
        ({"kind": "imagenet-val"}, "unknown class n13742358|wrong counts"),
    ],
)
def test_what_does_not_fit_is_refused(stored: Place, said: dict[str, object], message: str) -> None:
    with pytest.raises(Rejected, match=message):
        stored.add(**said)


def test_an_empty_prefix_is_refused(place: Place) -> None:
    with pytest.raises(Rejected, match=r"s3://synthclone/real/photos/ holds no \.tar with an image"):
        place.add()


def test_numbers_need_the_list_of_classes(stored: Place) -> None:
    stored.store.delete(f"{PREFIX}classes.txt")
    with pytest.raises(
        Rejected, match=r"label images by number; .* one a line, to s3://synthclone/real/photos/classes\.txt"
    ):
        stored.add()


def test_a_damaged_shard_is_named_as_it_lies_in_the_bucket(stored: Place) -> None:
    stored.store.put(f"{PREFIX}0001.tar", b"no tar" * 200)
    with pytest.raises(Rejected, match=r"s3://synthclone/real/photos/0001\.tar cannot be read as a tar"):
        stored.add()


def test_a_set_in_a_bucket_of_an_s3_server_is_read(place: Place, shards: Path) -> None:
    with moto() as address:
        store = S3Store(s3_settings(address))
        store.create_bucket()
        upload(store, shards)
        real = place._replace(store=store)
        real.add()
        assert len([read_bytes(entry) for entry in real.read()]) == len(IMAGES)
