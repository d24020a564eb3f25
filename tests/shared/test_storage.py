import hashlib
import resource
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import ConfigurationError, CorruptObject, NotFound, Unavailable
from shared.storage import LocalStore, ObjectStore, S3Store, get_verified
from tests.s3_servers import has_radosgw, moto, radosgw, s3_settings

RADOSGW = pytest.param("radosgw", marks=pytest.mark.skipif(not has_radosgw(), reason="Ceph packages not installed"))


@pytest.fixture(scope="module", params=["folder", "moto", RADOSGW])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "folder":
        yield LocalStore(folder)
        return
    with moto() if request.param == "moto" else radosgw(folder) as address:
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
    assert list(store.keys("list/")) == ["list/2"]


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
