import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from shared.vision.digits import DIGIT_WNIDS
from shared.vision.real.archives import Unpacking
from shared.vision.real.layouts import Layout, read_listing
from shared.vision.real.listings import Listing, read_bytes

import pytest

from shared.errors import CorruptObject, Rejected
from tests.shared.real.layouts import (
    FORMS,
    SmallImage,
    add_member,
    small_images,
    write,
    write_csv,
    write_imagefolder,
    write_tar,
    write_tar_gz,
)

IMAGES = small_images()
POSITIONS = [str(label) for label in range(10)]


def contents(listing: Listing) -> list[tuple[int, str, bytes]]:
    return [(entry.label, entry.name.rpartition("/")[2], read_bytes(entry)) for entry in listing]


def unpacking(tmp_path: Path) -> Unpacking:
    return Unpacking(tmp_path / "cache", 10**7)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_each_image_with_its_label(form: str, tmp_path: Path) -> None:
    layout, name, write_form = FORMS[form]
    location = write_form(tmp_path / name, IMAGES)
    listing = read_listing(layout, location, classes=DIGIT_WNIDS, unpacking=unpacking(tmp_path))
    assert listing.class_ids == DIGIT_WNIDS
    assert sorted(contents(listing)) == sorted((image.label, image.name, image.data) for image in IMAGES)
    names = [image.name for image in IMAGES]
    if form != "webdataset":  # two shards: their keys follow each other only within one
        assert [name for _, name, _ in contents(listing)] == names, "img2 comes before img10"


@pytest.mark.parametrize("form", FORMS)
def test_class_list_is_found_in_the_copy_when_none_is_given(form: str, tmp_path: Path) -> None:
    layout, name, write_form = FORMS[form]
    listing = read_listing(layout, write_form(tmp_path / name, IMAGES), unpacking=unpacking(tmp_path))
    assert listing.class_ids == DIGIT_WNIDS
    assert [label for label, _, _ in contents(listing)] == sorted(image.label for image in IMAGES)


@pytest.mark.parametrize("write_form", [write_imagefolder, write_csv])
def test_numbers_are_positions_in_the_class_list(
    write_form: Callable[[Path, Sequence[SmallImage], Sequence[str]], Path], tmp_path: Path
) -> None:
    layout: Layout = "csv" if write_form is write_csv else "imagefolder"
    classes = DIGIT_WNIDS[::-1]
    listing = read_listing(layout, write_form(tmp_path / "set", IMAGES, POSITIONS), classes=classes)
    assert listing.class_ids == classes
    assert {(label, name) for label, name, _ in contents(listing)} == {(image.label, image.name) for image in IMAGES}


def test_digest_tells_a_renamed_a_grown_and_a_moved_image(tmp_path: Path) -> None:
    def digest(images: Sequence[SmallImage], copy: str) -> str:
        return read_listing("imagefolder", write_imagefolder(tmp_path / copy, images)).digest()

    first, *others = IMAGES
    changed = [first._replace(name="img00.jpg"), first._replace(data=first.data + b"\0"), first._replace(label=1)]
    digests = [digest([image, *others], f"copy{number}") for number, image in enumerate([first, *changed])]
    assert len(set(digests)) == 4
    assert digest(IMAGES, "again") == digests[0]


def test_digest_tells_an_image_of_another_class(tmp_path: Path) -> None:
    root = write_csv(tmp_path, IMAGES)
    before = read_listing("csv", root).digest()
    table = (root / "labels.csv").read_text()
    write(root / "labels.csv", table.replace(f"img0.jpg,{DIGIT_WNIDS[0]}", f"img0.jpg,{DIGIT_WNIDS[1]}"))
    assert read_listing("csv", root).digest() != before


def test_class_list_gives_the_order_of_the_labels(tmp_path: Path) -> None:
    listing = read_listing("imagefolder", write_imagefolder(tmp_path, IMAGES), classes=DIGIT_WNIDS[::-1])
    assert listing.labels.tolist() == [9 - image.label for image in IMAGES]


def test_restricted_listing_keeps_the_images_of_its_classes_in_their_order(tmp_path: Path) -> None:
    whole = read_listing("imagefolder", write_imagefolder(tmp_path / "set", IMAGES))
    part = whole.restricted_to((DIGIT_WNIDS[7], DIGIT_WNIDS[2]))
    assert part.class_ids == (DIGIT_WNIDS[7], DIGIT_WNIDS[2])
    expected = [({7: 0, 2: 1}[image.label], image.name, image.data) for image in IMAGES if image.label in (2, 7)]
    assert contents(part) == expected
    with pytest.raises(Rejected, match="no class n00000000; it has 10 classes"):
        whole.restricted_to(("n00000000",))


def test_hidden_files_and_a_readme_beside_the_classes_are_left_out(tmp_path: Path) -> None:
    root = write_imagefolder(tmp_path / "set", IMAGES)
    for name in ("README.txt", ".DS_Store", f"{DIGIT_WNIDS[0]}/.DS_Store", ".cache/x.jpg"):
        write(root / name, "left behind")
    assert len(read_listing("imagefolder", root)) == len(IMAGES)


def test_extension_may_be_in_capitals_as_imagenets_is(tmp_path: Path) -> None:
    images = [image._replace(name=image.name.replace(".jpg", ".JPEG")) for image in IMAGES]
    listing = read_listing("imagefolder", write_imagefolder(tmp_path, images))
    assert [name for _, name, _ in contents(listing)] == [image.name for image in images]


def test_linked_class_folders_are_followed(tmp_path: Path) -> None:
    elsewhere = write_imagefolder(tmp_path / "disk", IMAGES)
    (tmp_path / "set").mkdir()
    for wnid in DIGIT_WNIDS:
        (tmp_path / "set" / wnid).symlink_to(elsewhere / wnid)
    assert len(read_listing("imagefolder", tmp_path / "set")) == len(IMAGES)


def test_archive_of_one_class_keeps_its_folder_as_the_class(tmp_path: Path) -> None:
    listing = read_listing("archive", write_tar(tmp_path / "one.tar", IMAGES[:3]))
    assert listing.class_ids == (DIGIT_WNIDS[0],)


def test_key_of_a_sample_ends_at_the_first_dot_of_its_last_part(tmp_path: Path) -> None:
    members = (("v1.0/a.JPG", IMAGES[3].data), ("v1.0/a.seg.png", b"mask"), ("v1.0/a.cls", b"3"), ("v1.1/a.txt", b"4"))
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in (*members, ("v1.1/a.jpg", IMAGES[4].data)):
            add_member(tar, name, data)
    listing = read_listing("webdataset", tmp_path, classes=DIGIT_WNIDS)
    assert contents(listing) == [(3, "a.JPG", IMAGES[3].data), (4, "a.jpg", IMAGES[4].data)]


def test_names_that_begin_with_a_dot_and_slash_are_those_without(tmp_path: Path) -> None:
    """As `tar cf set.tar .` writes them."""
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(write_imagefolder(tmp_path / "set", IMAGES), arcname=".")
    listing = read_listing("archive", tmp_path / "set.tar")
    assert contents(listing) == contents(read_listing("imagefolder", tmp_path / "set"))
    assert listing.digest() == read_listing("imagefolder", tmp_path / "set").digest()


def test_compressed_archive_is_unpacked_once_and_again_when_it_changed(tmp_path: Path) -> None:
    archive, cache = tmp_path / "set.tar.gz", unpacking(tmp_path)
    write_tar_gz(archive, IMAGES)
    read_listing("archive", archive, unpacking=cache)
    (unpacked,) = cache.cache_dir.iterdir()
    before = unpacked.stat().st_mtime_ns
    read_listing("archive", archive, unpacking=cache)
    assert [(path, path.stat().st_mtime_ns) for path in cache.cache_dir.iterdir()] == [(unpacked, before)]
    write_tar_gz(archive, IMAGES[:10])
    assert len(read_listing("archive", archive, unpacking=cache)) == 10


@pytest.mark.parametrize("form", ["imagefolder", "tar", "zip"])
def test_image_that_changed_after_it_was_listed_is_named(form: str, tmp_path: Path) -> None:
    layout, name, write_form = FORMS[form]
    location = write_form(tmp_path / name, IMAGES)
    entry = read_listing(layout, location).entry(1)
    path = Path(entry.path)
    path.write_bytes(path.read_bytes()[: entry.offset + 50])
    with pytest.raises(CorruptObject, match=entry.name):
        read_bytes(entry)
    path.unlink()
    with pytest.raises(CorruptObject, match=f"{entry.name} .*is not there any more"):
        read_bytes(entry)
