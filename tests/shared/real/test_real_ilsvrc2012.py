import pickle
from collections.abc import Callable
from pathlib import Path

from shared.vision.real.known_sets import read_known_set
from shared.vision.real.layouts import read_listing
from shared.vision.real.listings import read_bytes

import pytest

from shared.classes import listed_wnids
from shared.errors import Rejected
from tests.shared.real.kits import KIT, kit_files, meta_mat, write_archives, write_unpacked
from tests.shared.real.layouts import small_images, write

IN1K = listed_wnids("in1k")
IMAGES = small_images(2, jpeg_only=True)
# The kit counts its classes in another order than that of their WordNet ids.
NUMBERS = {wnid: 10 - position for position, wnid in enumerate(IN1K[5:15])}
TRUTH = [NUMBERS[IN1K[5 + image.label]] for image in IMAGES]
META = meta_mat(NUMBERS, {"n00001740": 1001})
FILES = kit_files(TRUTH, META)
each_form = pytest.mark.parametrize("write_set", [write_unpacked, write_archives])


@each_form
def test_classes_of_the_validation_images_come_from_the_kit(tmp_path: Path, write_set: Callable[..., Path]) -> None:
    root = write_set(tmp_path / "val", IMAGES, FILES)
    listing = read_known_set("imagenet-val", "ilsvrc2012", root, strict=False)
    assert listing.labels.tolist() == [image.label + 5 for image in IMAGES]
    assert listing.class_ids == IN1K
    assert [read_bytes(entry) for entry in listing] == [image.data for image in IMAGES]


@each_form
def test_a_cut_of_the_validation_set_is_refused_unless_wanted(tmp_path: Path, write_set: Callable[..., Path]) -> None:
    root = write_set(tmp_path / "val", IMAGES, FILES)
    with pytest.raises(Rejected, match="20 images, 50,000 expected; 10 classes with images, 1,000 expected"):
        read_known_set("imagenet-val", "ilsvrc2012", root)


def test_both_forms_are_the_same_set(tmp_path: Path) -> None:
    roots = [
        write_set(tmp_path / str(n), IMAGES, FILES) for n, write_set in enumerate((write_unpacked, write_archives))
    ]
    assert len({read_listing("ilsvrc2012", root).digest() for root in roots}) == 1


def without_kit(root: Path) -> Path:
    return write_unpacked(root, IMAGES, {})


def without_images(root: Path) -> Path:
    return write_unpacked(root, [], FILES)


def with_another_image(root: Path) -> Path:
    extra = [*IMAGES, IMAGES[0]]
    return write_archives(root, extra, FILES)


def with_renamed_image(root: Path) -> Path:
    write_archives(root, IMAGES, FILES)
    (root / "ILSVRC2012_img_val.tar").unlink()
    write(root / "n01440764" / "1.JPEG", IMAGES[0].data)
    return root


def with_kit(files: dict[str, bytes]) -> Callable[[Path], Path]:
    return lambda root: write_archives(root, IMAGES, FILES | files)


def with_broken_archive(root: Path) -> Path:
    write_archives(root, IMAGES, FILES)
    archive = root / f"{KIT}.tar.gz"
    archive.write_bytes(archive.read_bytes()[:200])
    return root


META_NAME, TRUTH_NAME = FILES


@pytest.mark.parametrize(
    ("write_set", "message"),
    [
        (
            without_kit,
            r"ILSVRC2012_devkit_t12.tar.gz is missing; put ILSVRC2012_devkit_t12.tar.gz of image-net.org into",
        ),
        (without_images, "holds neither ILSVRC2012_img_val.tar nor its images"),
        (with_renamed_image, "holds neither ILSVRC2012_img_val.tar nor its images"),
        (with_another_image, "_00000021.JPEG and the ground truth ends with image 20"),
        (with_kit({TRUTH_NAME: b"1\n2\nthree\n"}), "holds b'three', which is no number"),
        (with_kit({TRUTH_NAME: b"11\n" * 20}), "_00000001.JPEG is 11, which data/meta.mat does not know"),
        (with_kit({TRUTH_NAME: b"1001\n" * 20}), "_00000001.JPEG is 1001, which data/meta.mat does not know"),
        (with_kit({META_NAME: b""}), "data/meta.mat cannot be read"),
        (with_kit({META_NAME: META[:400]}), "data/meta.mat cannot be read"),
        (with_kit({META_NAME: b"MATLAB 5.0" * 100}), "data/meta.mat cannot be read"),
        (with_kit({META_NAME: pickle.dumps(NUMBERS)}), "data/meta.mat cannot be read"),
        (with_broken_archive, "cannot read data/meta.mat of the development kit"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path: Path, write_set: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(Rejected, match=message):
        read_listing("ilsvrc2012", write_set(tmp_path / "val"))
