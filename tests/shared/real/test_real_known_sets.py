from pathlib import Path

from shared.vision.digits import DIGIT_WNIDS
from shared.vision.real.known_sets import KNOWN_SETS, check_counts, read_known_set
from shared.vision.real.layouts import read_listing

import pytest
from timm.data import ImageNetInfo

from shared.classes import listed_wnids
from shared.errors import Rejected
from tests.shared.real.layouts import small_images, write_imagefolder, write_tar

IN1K = listed_wnids("in1k")
IMAGES = small_images(2)


def test_label_order_is_that_of_networks_trained_by_timm() -> None:
    assert tuple(ImageNetInfo().label_names()) == IN1K


@pytest.mark.parametrize(("kind", "in100_classes"), [("imagenet-r", 19), ("imagenet-a", 15)])
def test_sets_of_200_classes_meet_in100_where_the_authors_say(kind: str, in100_classes: int) -> None:
    class_ids = KNOWN_SETS[kind].class_ids()
    assert len(class_ids) == 200
    assert list(class_ids) == sorted(set(class_ids) & set(IN1K))
    assert len(set(class_ids) & set(listed_wnids("in100"))) == in100_classes


@pytest.mark.parametrize("kind", KNOWN_SETS)
def test_cut_of_a_set_is_refused_unless_wanted(kind: str, tmp_path: Path) -> None:
    wnids = KNOWN_SETS[kind].class_ids()[5:15]
    root = write_imagefolder(tmp_path / "set", IMAGES, wnids)
    with pytest.raises(Rejected, match=rf"set has 20 images, {KNOWN_SETS[kind].images:,} expected; 10 classes with"):
        read_known_set(kind, "imagefolder", root)
    listing = read_known_set(kind, "imagefolder", root, strict=False)
    assert listing.labels.tolist() == [image.label + 5 for image in IMAGES]


def test_numbered_folders_of_imagenet_v2_are_positions(tmp_path: Path) -> None:
    folders = [str(label * 100) for label in range(10)]
    archive = write_tar(tmp_path / "v2.tar", IMAGES, folders)
    listing = read_known_set("imagenet-v2-top-images", "archive", archive, strict=False)
    assert sorted(listing.labels.tolist()) == sorted(image.label * 100 for image in IMAGES)
    assert listing.class_ids == IN1K


def test_counts_that_match_are_accepted_and_others_named(tmp_path: Path) -> None:
    listing = read_listing("imagefolder", write_imagefolder(tmp_path / "set", IMAGES))
    check_counts("digits", listing, classes=10, images=20)
    check_counts("digits", listing, classes=10, images=None)
    with pytest.raises(Rejected, match=r"digits in .*set has 10 classes with images, 11 expected"):
        check_counts("digits", listing, classes=11, images=20)


def test_unknown_kind_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="unknown set 'imagenet-x'; known: imagenet-train, imagenet-val,"):
        read_known_set("imagenet-x", "imagefolder", tmp_path)


def test_set_of_other_classes_is_refused(tmp_path: Path) -> None:
    root = write_imagefolder(tmp_path / "set", IMAGES, DIGIT_WNIDS)
    with pytest.raises(Rejected, match=r"unknown class n13742358, .* and 5 more; known are 1000 class ids"):
        read_known_set("imagenet-val", "imagefolder", root, strict=False)
