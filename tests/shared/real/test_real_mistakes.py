import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from shared.vision.digits import DIGIT_WNIDS
from shared.vision.real.archives import Unpacking
from shared.vision.real.layouts import Layout, read_listing

import pytest

from shared.errors import Rejected
from tests.shared.real.layouts import (
    add_member,
    small_images,
    write,
    write_csv,
    write_imagefolder,
    write_tar,
    write_tar_gz,
    write_webdataset,
    write_zip,
)

IMAGES = small_images()
Write = Callable[[Path], Path]


def unpacking(tmp_path: Path, most_bytes: int = 10**7) -> Unpacking:
    return Unpacking(tmp_path / "cache", most_bytes)


def without_images(root: Path) -> Path:
    root.mkdir()
    return root


def with_empty_class(root: Path) -> Path:
    (write_imagefolder(root, IMAGES) / "n00000001").mkdir()
    return root


def with_file(name: str) -> Write:
    def write_set(root: Path) -> Path:
        write(write_imagefolder(root, IMAGES) / name, "no image")
        return root

    return write_set


def with_rows(*rows: str, header: str = "file,label") -> Write:
    def write_set(root: Path) -> Path:
        write(write_csv(root, IMAGES) / "labels.csv", "\n".join([header, *rows]))
        return root

    return write_set


def with_member(name: str, kind: bytes = tarfile.REGTYPE) -> Write:
    def write_archive(path: Path) -> Path:
        with tarfile.open(write_tar(path, IMAGES), "a") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/hostname"
            tar.addfile(member)
        return path

    return write_archive


def with_sample(**parts: bytes) -> Write:
    return with_members(*((f"a.{extension}", data) for extension, data in parts.items()))


def with_members(*members: tuple[str, bytes]) -> Write:
    def write_set(root: Path) -> Path:
        with tarfile.open(write_webdataset(root, IMAGES) / "x.tar", "w") as tar:
            for name, data in members:
                add_member(tar, name, data)
        return root

    return write_set


def with_zipped(change: Callable[[zipfile.ZipInfo], None], packing: int = zipfile.ZIP_STORED) -> Write:
    def write_archive(path: Path) -> Path:
        with zipfile.ZipFile(write_zip(path, IMAGES), "a") as archive:
            member = zipfile.ZipInfo("a/x.jpg")
            archive.writestr(member, b"x", packing)
            change(member)  # what the index at the end says
        return path

    return write_archive


def as_link(member: zipfile.ZipInfo) -> None:
    member.external_attr = (stat.S_IFLNK | 0o777) << 16


def as_encrypted(member: zipfile.ZipInfo) -> None:
    member.flag_bits |= 1


def as_misplaced(member: zipfile.ZipInfo) -> None:
    member.header_offset += 8


def as_outside(member: zipfile.ZipInfo) -> None:
    member.filename = "../x.jpg"


def cut_off(write_form: Callable[..., Path], bytes_lost: int) -> Write:
    return lambda path: write(path, write_form(path, IMAGES).read_bytes()[:-bytes_lost])


FOLDERS: dict[str, tuple[Write, str]] = {
    "not there": (lambda root: root, "set is no folder"),
    "nothing in it": (without_images, "set holds no image"),
    "an empty class": (with_empty_class, "class folder .*set/n00000001 holds no image"),
    "an unknown extension": (with_file(f"{DIGIT_WNIDS[0]}/x.gif"), r"set/n13742358/x\.gif is no image"),
    "an image outside": (with_file("x.jpg"), r"set/x\.jpg lies in no class folder"),
    "a class too many": (with_file("dog/x.jpg"), "unknown class dog; known are 10 class ids"),
}
TABLES: dict[str, tuple[Write, str]] = {
    "no table": (without_images, r"cannot read .*set/labels\.csv: No such file"),
    "another header": (with_rows("flat/img0.jpg,1", header="name,label"), r"labels\.csv has no column file;"),
    "a row too short": (with_rows("flat/img0.jpg"), r"labels\.csv:2 lacks a file or a label"),
    "a row outside": (with_rows("../img0.jpg,1"), r"csv:2 names \.\./img0\.jpg, which lies outside"),
    "a file missing": (with_rows("none.jpg,1"), r"cannot read .*set/none\.jpg: No such"),
    "a file of another kind": (with_rows("labels.csv,1"), r"csv:2 names labels\.csv, which is no image"),
    "a file twice": (with_rows("flat/img0.jpg,1", "flat/img0.jpg,2"), r"lists flat/img0\.jpg twice"),
    "a position too high": (with_rows("flat/img0.jpg,10"), "class 10; .* 0 to 9"),
    "two names of a class": (with_rows("flat/img0.jpg,1", "flat/img1.jpg,01"), "class 1 is written 01, 1"),
}
SHARDS: dict[str, tuple[Write, str]] = {
    "no shard": (without_images, r"set holds no \.tar"),
    "no label": (with_sample(jpg=b""), r"x\.tar/a has no label"),
    "json without label": (with_sample(jpg=b"", json=b"[]"), r"x\.tar/a has no label"),
    "broken json": (with_sample(jpg=b"", json=b"{"), r"x\.tar/a\.json is no JSON"),
    "no text": (with_sample(jpg=b"", txt=b"\xff"), r"x\.tar/a\.txt is no UTF-8 text"),
    "a huge label": (with_sample(jpg=b"", txt=bytes(1 << 21)), r"x\.tar/a\.txt has 2097152 bytes"),
    "no image": (with_sample(gif=b"", cls=b"1"), r"x\.tar/a has \.cls, \.gif; a sample needs"),
    "two images": (with_sample(jpg=b"", png=b"", cls=b"1"), r"x\.tar/a has \.cls, \.jpg, \.png; a sample needs"),
    "a part twice": (with_members(("a.jpg", b""), ("a.jpg", b"")), r"x\.tar holds a\.jpg twice"),
}
TARS: dict[str, tuple[Write, str]] = {
    "a folder": (with_file("x.txt"), r"set\.tar is no file"),
    "a way out": (with_member("../../x.jpg"), r"holds '\.\./\.\./x\.jpg', which leads out"),
    "an absolute name": (with_member("/tmp/x.jpg"), "holds '/tmp/x.jpg', which leads out"),
    "a link": (with_member("a/x.jpg", tarfile.SYMTYPE), r"holds a/x\.jpg, a link or device"),
    "a hard link": (with_member("a/x.jpg", tarfile.LNKTYPE), r"holds a/x\.jpg, a link or device"),
    "a sparse file": (with_member("outer/a/x.jpg", tarfile.GNUTYPE_SPARSE), r"holds outer/a/x\.jpg, a link or device"),
    "an empty class": (with_member("outer/void", tarfile.DIRTYPE), r"set\.tar/void holds no image"),
    "cut off": (cut_off(write_tar, 20_000), r"set\.tar cannot be read as a tar: unexpected end of data"),
}
ZIPS: dict[str, tuple[Write, str]] = {
    "a link": (with_zipped(as_link), r"holds a/x\.jpg, a link or device"),
    "encrypted": (with_zipped(as_encrypted), r"holds a/x\.jpg encrypted or packed by another method"),
    "another packing": (with_zipped(lambda member: None, zipfile.ZIP_LZMA), r"holds a/x\.jpg encrypted or packed by"),
    "misplaced": (with_zipped(as_misplaced), r"no member where its index names a/x\.jpg"),
    "a way out": (with_zipped(as_outside), r"holds '\.\./x\.jpg', which leads out"),
}
OTHER_ARCHIVES: dict[str, tuple[Write, str]] = {
    "set.rar": (lambda path: write(path, "Rar!"), r"set\.rar is no archive that can be read; known are \.tar,"),
    "set.tar.gz": (cut_off(write_tar_gz, 100), r"set\.tar\.gz is damaged"),
    "set.tgz": (lambda path: write(path, "plain"), r"set\.tgz is damaged: Not a gzipped file"),
    "set.zip": (cut_off(write_zip, 100), r"set\.zip cannot be read as a ZIP"),
}


def assert_refused(layout: Layout, location: Path, message: str) -> None:
    cache = unpacking(location.parent)
    with pytest.raises(Rejected, match=message):
        read_listing(layout, location, classes=DIGIT_WNIDS, unpacking=cache)
    assert not list(location.parent.glob("cache/*")), "nothing half unpacked stays behind"


@pytest.mark.parametrize("mistake", FOLDERS)
def test_mistake_in_class_folders_is_named_with_its_path(mistake: str, tmp_path: Path) -> None:
    write_set, message = FOLDERS[mistake]
    assert_refused("imagefolder", write_set(tmp_path / "set"), message)


@pytest.mark.parametrize("mistake", TABLES)
def test_mistake_in_a_table_is_named_with_its_line(mistake: str, tmp_path: Path) -> None:
    write_set, message = TABLES[mistake]
    assert_refused("csv", write_set(tmp_path / "set"), message)


@pytest.mark.parametrize("mistake", SHARDS)
def test_mistake_in_a_shard_is_named_with_its_key(mistake: str, tmp_path: Path) -> None:
    write_set, message = SHARDS[mistake]
    assert_refused("webdataset", write_set(tmp_path / "set"), message)


@pytest.mark.parametrize("mistake", TARS)
def test_mistake_in_a_tar_is_named_with_its_member(mistake: str, tmp_path: Path) -> None:
    write_set, message = TARS[mistake]
    assert_refused("archive", write_set(tmp_path / "set.tar"), message)


@pytest.mark.parametrize("mistake", ZIPS)
def test_mistake_in_a_zip_is_named_with_its_member(mistake: str, tmp_path: Path) -> None:
    write_set, message = ZIPS[mistake]
    assert_refused("archive", write_set(tmp_path / "set.zip"), message)


@pytest.mark.parametrize("name", OTHER_ARCHIVES)
def test_damaged_or_unknown_archive_is_refused(name: str, tmp_path: Path) -> None:
    write_set, message = OTHER_ARCHIVES[name]
    assert_refused("archive", write_set(tmp_path / name), message)


def test_numbers_in_shards_need_a_class_list(tmp_path: Path) -> None:
    root = write_webdataset(tmp_path / "set", IMAGES)
    (root / "classes.txt").unlink()
    with pytest.raises(Rejected, match=r"one a line, to .*set/classes\.txt"):
        read_listing("webdataset", root)


def test_compressed_archive_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    archive = write_tar_gz(tmp_path / "set.tar.gz", IMAGES)
    with pytest.raises(Rejected, match="unpacks to more than 10000 bytes"):
        read_listing("archive", archive, unpacking=unpacking(tmp_path, 10_000))
    assert not list((tmp_path / "cache").iterdir())


def test_compressed_archive_needs_a_folder_to_unpack_to(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="no folder to unpack it to"):
        read_listing("archive", write_tar_gz(tmp_path / "set.tar.gz", IMAGES))
