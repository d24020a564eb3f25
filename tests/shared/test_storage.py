import contextlib
import hashlib
import resource
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.errors import ConfigurationError, CorruptObject, NotFound, Unavailable
from shared.storage import LocalStore, ObjectStore, S3Store, get_verified
from tests.faults.proxy import Link, Proxy
from tests.s3_servers import has_radosgw, moto, s3_settings

RADOSGW = pytest.param("radosgw", marks=pytest.mark.skipif(not has_radosgw(), reason="Ceph packages not installed"))


@pytest.fixture(scope="module", params=["folder", "moto", RADOSGW])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "folder":
        yield LocalStore(folder)
        return
    with moto() if request.param == "moto" else nullcontext(request.getfixturevalue("radosgw_address")) as address:
        bucket = S3Store(s3_settings(address))
        bucket.create_bucket()
        yield bucket


def test_what_was_put_can_be_read_whole_and_in_part(store: ObjectStore) -> None:
    store.put("a/b.bin", b"0123456789")
    assert store.get("a/b.bin") == b"0123456789"
    assert store.get_range("a/b.bin", 3, 4) == b"3456"
    assert store.get_range("a/b.bin", 8, 100) == b"89"
    assert store.size("a/b.bin") == 10


def test_missing_objects_are_not_found(store: ObjectStore) -> None:
    assert store.size("nothing") is None
    with pytest.raises(NotFound, match="nothing"):
        store.get("nothing")


def test_keys_lists_a_prefix_and_delete_removes(store: ObjectStore) -> None:
    for key in ("list/1", "list/2", "other/1"):
        store.put(key, b"x")
    store.delete("list/1")
    store.delete("list/1")
    assert [entry.key for entry in store.entries("list/")] == ["list/2"]


def test_changed_bytes_are_noticed(store: ObjectStore) -> None:
    store.put("verified", b"good")
    digest = hashlib.sha256(b"good").hexdigest()
    assert get_verified(store, "verified", digest) == b"good"
    store.put("verified", b"evil")
    with pytest.raises(CorruptObject, match="verified"):
        get_verified(store, "verified", digest)


def test_links_download_without_credentials(store: ObjectStore) -> None:
    store.put("linked", b"content")
    link = store.link("linked", minutes=5)
    if isinstance(store, LocalStore):
        assert link is None
        return
    assert link is not None
    with urllib.request.urlopen(link, timeout=10) as response:
        assert response.read() == b"content"
        assert response.headers["Content-Disposition"] == "attachment"


def test_links_are_signed_for_the_public_name_and_expire() -> None:
    """Without a network: the name need not resolve where the API runs."""
    settings = s3_settings("10.0.0.9:9000").model_copy(update={"s3_public_endpoint": "objects.example"})
    link = urllib.parse.urlsplit(S3Store(settings).link("some/key", minutes=15) or "")
    query = urllib.parse.parse_qs(link.query)
    assert link.hostname == "objects.example"
    assert (query["X-Amz-Expires"], query["X-Amz-SignedHeaders"]) == (["900"], ["host"])


def test_a_ready_store_passes_its_check(store: ObjectStore) -> None:
    store.check()


def test_a_missing_bucket_names_the_remedy() -> None:
    with moto() as address, pytest.raises(ConfigurationError, match="synthclone migrate"):
        S3Store(s3_settings(address)).check()


def test_a_folder_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = LocalStore(tmp_path / "file" / "objects")
    with pytest.raises(ConfigurationError, match="--data DIR"):
        store.check()
    with pytest.raises(Unavailable, match="cannot write"):
        store.put("key", b"data")


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_keys_never_leave_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(NotFound):
        LocalStore(tmp_path).get(key)


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Unavailable, match="free some space"):
            store.put("large", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_passes_once_there_is_room(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    store.put("first", bytes(900_000))
    with pytest.raises(Unavailable, match="No space left on device; free some space"):
        store.put("second", bytes(900_000))
    assert [entry.key for entry in store.entries("")] == ["first"]
    store.delete("first")
    store.put("second", bytes(900_000))


def test_a_disk_with_too_little_room_is_not_ready(small_disk: Path) -> None:
    LocalStore(small_disk, min_free_bytes=900_000).check()
    small_disk.joinpath("file").write_bytes(bytes(500_000))
    with pytest.raises(Unavailable, match="less than SYNTHCLONE_MIN_FREE_BYTES=900000"):
        LocalStore(small_disk, min_free_bytes=900_000).check()


def test_a_disk_that_takes_no_block_is_not_ready(small_disk: Path) -> None:
    with contextlib.suppress(OSError), small_disk.joinpath("file").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with pytest.raises(Unavailable, match="No space left"):
        LocalStore(small_disk).check()


def test_entries_come_in_order_with_size_and_time(store: ObjectStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    for key in ("order/b/2", "order/a/1", "order/b/10", "orders"):
        store.put(key, b"x" * len(key))
    entries = list(store.entries("order/"))
    assert [(entry.key, entry.size_bytes) for entry in entries] == [
        ("order/a/1", 9), ("order/b/10", 10), ("order/b/2", 9),
    ]  # fmt: skip
    assert all(before < entry.modified_at < datetime.now(UTC) + timedelta(seconds=2) for entry in entries)


def test_entries_of_a_prefix_inside_a_name_are_found(store: ObjectStore) -> None:
    for key in ("inside/aa1", "inside/aa2", "inside/ab1"):
        store.put(key, b"x")
    assert [entry.key for entry in store.entries("inside/aa")] == ["inside/aa1", "inside/aa2"]
    assert list(store.entries("nowhere/")) == []


@pytest.mark.slow
def test_a_shard_goes_over_a_link_that_takes_longer_than_a_connection_may() -> None:
    with moto() as address:
        proxy = Proxy(int(address.rpartition(":")[2]))
        bucket = S3Store(s3_settings(proxy.address))
        bucket.create_bucket()
        proxy.link = Link(delay_seconds=0.07)  # for each 64 KiB: about eight seconds
        bucket.put("large", bytes(8_000_000))
        proxy.link = Link()
        assert bucket.size("large") == 8_000_000
        proxy.close()
