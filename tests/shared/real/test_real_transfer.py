import hashlib
from pathlib import Path

from shared.vision.real.listings import Listing, read_bytes
from shared.vision.real.originals import ORIGINALS
from shared.vision.real.transfer import TRANSFER_SETS, read_transfer_set

import pytest

from shared.errors import Rejected
from tests.shared.real.layouts import SmallImage, write_imagefolder
from tests.shared.real.transfer_copies import KINDS, WRITERS, halves, write_food, write_train_and_test

WITHOUT_PARTS = "eurosat"


def contents(listing: Listing) -> set[tuple[int, bytes]]:
    return {(entry.label, read_bytes(entry)) for entry in listing}


def labelled(images: list[SmallImage]) -> set[tuple[int, bytes]]:
    return {(image.label, image.data) for image in images}


@pytest.mark.parametrize("name", [name for name in TRANSFER_SETS if name != WITHOUT_PARTS])
def test_published_form_gives_both_parts_with_their_labels(name: str, tmp_path: Path) -> None:
    parts = halves()
    WRITERS[name](tmp_path, parts)
    found = read_transfer_set(name, tmp_path, strict=False)
    assert contents(found.train) == labelled(parts.trainval)
    assert contents(found.test) == labelled(parts.test)
    assert found.train.class_ids == found.test.class_ids
    assert (len(found.train), len(found.test)) == (20, 20)


def test_eurosat_is_parted_within_each_class_and_always_alike(tmp_path: Path) -> None:
    parts = halves()
    for copy in ("one", "two"):
        WRITERS[WITHOUT_PARTS](tmp_path / copy, parts)
    found, again = (read_transfer_set(WITHOUT_PARTS, tmp_path / copy, strict=False) for copy in ("one", "two"))
    assert contents(found.train) | contents(found.test) == labelled(parts.trainval + parts.test)
    assert found.train.labels.tolist() == found.test.labels.tolist() == sorted([*range(10), *range(10)])
    assert found.train.digest() == again.train.digest()
    assert not contents(found.train) & contents(found.test)


def test_eurosat_trains_on_the_names_with_the_smallest_digests(tmp_path: Path) -> None:
    parts = halves()
    WRITERS[WITHOUT_PARTS](tmp_path, parts)
    found = read_transfer_set(WITHOUT_PARTS, tmp_path, strict=False)
    names = [image.name for image in parts.trainval + parts.test if image.label == 3]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    trained = {entry.name.rpartition("/")[2] for entry in found.train if entry.label == 3}
    assert trained == set(names[:2]), "7/10 of 4, rounded down"


@pytest.mark.parametrize("kept_bytes", [0, 100, 200])
def test_truncated_label_file_is_refused(kept_bytes: int, tmp_path: Path) -> None:
    WRITERS["cars196"](tmp_path, halves())
    labels = tmp_path / "stanford_cars" / "devkit" / "cars_train_annos.mat"
    labels.write_bytes(labels.read_bytes()[:kept_bytes])
    with pytest.raises(Rejected, match="holds no whole cars196"):
        read_transfer_set("cars196", tmp_path, strict=False)


@pytest.mark.parametrize("name", TRANSFER_SETS)
def test_cut_of_a_set_is_refused_with_what_is_expected(name: str, tmp_path: Path) -> None:
    write_train_and_test(tmp_path, halves())
    published = TRANSFER_SETS[name]
    if published.classes == len(KINDS):
        message = f"wrong counts: {name} train in .* has 20 images, {published.train_images:,} expected; is"
    else:
        message = f"wrong counts: {name} train in .* has .*10 classes with images, {published.classes:,} expected"
    with pytest.raises(Rejected, match=message):
        read_transfer_set(name, tmp_path)
    assert len(read_transfer_set(name, tmp_path, strict=False).test) == 20


@pytest.mark.parametrize("name", ORIGINALS)
def test_empty_folder_is_refused_with_what_a_copy_holds(name: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=f"holds no whole {name}: it needs {ORIGINALS[name].needs[:12]}"):
        read_transfer_set(name, tmp_path)


def test_flowers_with_label_files_of_their_own_are_refused_when_strict(tmp_path: Path) -> None:
    WRITERS["flowers102"](tmp_path, halves())
    with pytest.raises(Rejected, match=r"setid\.mat as published"):
        read_transfer_set("flowers102", tmp_path)


def test_missing_image_is_named(tmp_path: Path) -> None:
    write_food(tmp_path, halves())
    gone = next((tmp_path / "food-101" / "images").rglob("*.jpg"))
    gone.unlink()
    with pytest.raises(Rejected, match=f"cannot read {gone}: No such file"):
        read_transfer_set("food101", tmp_path, strict=False)


@pytest.mark.parametrize("split", ["test", "val"])
def test_parts_that_name_different_classes_are_refused(split: str, tmp_path: Path) -> None:
    WRITERS["dtd"](tmp_path, halves())
    names = tmp_path / "dtd" / "dtd" / "labels" / f"{split}1.txt"
    names.write_text("".join(line for line in names.open() if not line.startswith(KINDS[4])))
    with pytest.raises(Rejected, match="name different classes"):
        read_transfer_set("dtd", tmp_path, strict=False)


def test_class_of_the_test_part_that_nothing_trains_is_refused(tmp_path: Path) -> None:
    write_train_and_test(tmp_path, halves())
    write_imagefolder(tmp_path / "test", halves().test[:1], ["zebra"])
    with pytest.raises(Rejected, match="test has the unknown class zebra"):
        read_transfer_set("cog-l1", tmp_path, strict=False)


def test_unknown_set_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="unknown transfer set 'cars'; known: aircraft, cars196,"):
        read_transfer_set("cars", tmp_path)
    with pytest.raises(Rejected, match="none is no folder; give the one that holds cars196"):
        read_transfer_set("cars196", tmp_path / "none")
    with pytest.raises(Rejected, match=r"has no folders train/ and test/, the only form in which cog-l1 is read"):
        read_transfer_set("cog-l1", tmp_path)
