"""Real sets registered by path, tested on as timm's own validation would."""

import shutil
from pathlib import Path

from shared.vision import digits
from shared.vision.digits import DIGIT_WNIDS
from shared.vision.images import MEAN, STD
from shared.vision.networks import EncoderCard
from shared.vision.real.benchmarks import open_benchmark
from shared.vision.real.registered import NewSet, inspect, open_set, register, remove

import pytest
import timm.data
import torch
from PIL import Image

from services.evaluator.evaluate import Encoder, Place, measure
from shared.errors import Conflict, NotFound, Rejected
from shared.realsets import RealSet, benchmark, training_set
from tests.trainer.rows import spec_of, tiny_request

SIZE = 48


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty real digits as an image folder, of sizes that need resizing and cropping."""
    root = tmp_path / "copy"
    split = digits.test_digits()
    for number, (image, label) in enumerate(zip(split.images[:60], split.labels[:60], strict=True)):
        place = root / DIGIT_WNIDS[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((70 + number, 90)).save(place / f"{number}.jpg", quality=95)
    return root


def added(place: Place, new: NewSet) -> RealSet:
    found = inspect(new, cache_dir=place.cache_dir)
    with place.database.write() as session:
        return register(session, found)


def encoder_of(class_ids: tuple[str, ...], network: torch.nn.Module) -> Encoder:
    request = tiny_request()
    card = EncoderCard(
        training="tr-test",
        architecture="test_resnet",
        class_ids=class_ids,
        class_names=class_ids,
        image_size=SIZE,
        mean=MEAN,
        std=STD,
        spec=spec_of(request, class_ids),
        recipe_digests=(),
        images=1,
        seconds=1,
        versions={},
    )
    return Encoder(card, "0" * 64, network.eval())


def timm_accuracy(network: torch.nn.Module, folder: Path, crop_pct: float) -> tuple[int, int]:
    """Hits among the first and the first five, and what of them, by timm's data set, loader and metric."""
    dataset = timm.data.create_dataset("", root=str(folder))
    loader = timm.data.create_loader(
        dataset,
        input_size=(3, SIZE, SIZE),
        batch_size=16,
        is_training=False,
        use_prefetcher=False,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        crop_pct=crop_pct,
        num_workers=0,
        device=torch.device("cpu"),
    )
    first = five = 0
    with torch.inference_mode():
        for images, labels in loader:
            top1, top5 = timm.utils.accuracy(network(images), labels, topk=(1, 5))
            first += round(float(top1) / 100 * len(labels))
            five += round(float(top5) / 100 * len(labels))
    return first, five


@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_top_1_and_top_5_are_those_of_timm(place: Place, folder: Path, crop_pct: float) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=10).eval()
    known = added(place, NewSet("copy", folder, role="test", crop_pct=crop_pct))
    encoder = encoder_of(known.class_ids, network)
    measured = measure(
        encoder, open_benchmark(known, encoder.card, cache_dir=place.cache_dir), place.device, lambda: None
    )
    first, five = timm_accuracy(network, folder, crop_pct)
    assert (measured.report.top1, measured.report.top5) == (first / 60, five / 60)
    assert 0 < first < five < 60


class Fixed(torch.nn.Module):
    """Always the same outputs."""

    def __init__(self, outputs: list[float]) -> None:
        super().__init__()
        self.outputs = torch.tensor(outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.outputs.expand(len(images), -1)


def test_outputs_for_classes_that_the_set_lacks_cannot_win(place: Place, folder: Path) -> None:
    """By hand: the network always prefers "cat", then the digit 4; masked to the digits, every 4 is a hit."""
    class_ids = ("cat", *DIGIT_WNIDS)
    encoder = encoder_of(class_ids, Fixed([9.0] + [5.0 if label == 4 else 0.0 for label in range(10)]))
    known = added(place, NewSet("copy", folder, role="test"))
    measured = measure(
        encoder, open_benchmark(known, encoder.card, cache_dir=place.cache_dir), place.device, lambda: None
    )
    fours = int((digits.test_digits().labels[:60] == 4).sum())
    assert fours > 0
    assert measured.report.top1 == fours / 60


def test_a_changed_copy_is_refused_when_it_is_read(place: Place, folder: Path) -> None:
    known = added(place, NewSet("copy", folder, role="test"))
    assert len(open_set(known, cache_dir=place.cache_dir)) == 60
    next(folder.rglob("*.jpg")).unlink()
    with pytest.raises(Rejected, match="has 59 images with other names, sizes or classes than the 60"):
        open_set(known, cache_dir=place.cache_dir)


def test_a_set_can_be_cut_to_a_class_list(place: Place, folder: Path) -> None:
    known = added(place, NewSet("copy", folder, role="train", classes=(DIGIT_WNIDS[3], DIGIT_WNIDS[1])))
    listing = open_set(known, cache_dir=place.cache_dir)
    assert listing.class_ids == known.class_ids == (DIGIT_WNIDS[3], DIGIT_WNIDS[1])
    assert len(listing) == known.images < 60


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (NewSet("val", Path(), kind="imagenet-val", role="train"), "is a test set and cannot be registered as a train"),
        (NewSet("mine", Path()), "give the role of mine"),
        (NewSet("mine", Path(), kind="mnist"), "unknown kind 'mnist'; known: imagenet-train"),
        (NewSet("my set", Path(), role="test"), "letters, digits, dots and hyphens"),
        (NewSet("mine", Path(), role="test", crop_pct=2), "crop_pct 2 is not between"),
        (NewSet("mine", Path("/nowhere"), role="test"), "/nowhere is no folder"),
    ],
)
def test_what_does_not_fit_is_refused(place: Place, new: NewSet, message: str) -> None:
    with pytest.raises(Rejected, match=message):
        added(place, new)


def test_the_same_images_cannot_be_trained_on_and_tested_on(place: Place, folder: Path) -> None:
    added(place, NewSet("copy", folder, role="test"))
    with pytest.raises(Rejected, match="the same images are registered as the test set copy"):
        added(place, NewSet("again", folder, role="train"))


@pytest.mark.parametrize("cut_first", [True, False], ids=["the cut first", "the whole first"])
def test_a_cut_of_a_copy_elsewhere_cannot_have_another_role(
    place: Place, folder: Path, tmp_path: Path, cut_first: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    cut, whole = ((DIGIT_WNIDS[3], DIGIT_WNIDS[1]), None) if cut_first else (None, (DIGIT_WNIDS[3], DIGIT_WNIDS[1]))
    added(place, NewSet("copy", folder, role="test", classes=cut))
    with pytest.raises(Rejected, match="the same images are registered as the test set copy"):
        added(place, NewSet("again", elsewhere, role="train", classes=whole))
    (elsewhere / DIGIT_WNIDS[1] / "another.jpg").write_bytes(b"")
    assert added(place, NewSet("other", elsewhere, role="train")).images == 61


@pytest.mark.parametrize("inner_first", [True, False], ids=["the inner first", "the outer first"])
def test_a_folder_within_that_of_another_role_is_refused(
    place: Place, folder: Path, tmp_path: Path, inner_first: bool
) -> None:
    table = tmp_path / "labels.csv"
    images = [file.relative_to(tmp_path) for file in folder.rglob("*.jpg")]
    table.write_text("file,label\n" + "".join(f"{image},{image.parent.name}\n" for image in images))
    sets = [NewSet("inner", folder, role="test"), NewSet("outer", tmp_path, role="train", layout="csv")]
    first, second = sets if inner_first else reversed(sets)
    added(place, first)
    with pytest.raises(Rejected, match=f"shares files with .* set {first.name}; give the two roles folders of their"):
        added(place, second)


def test_a_link_to_a_folder_is_that_folder(place: Place, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    added(place, NewSet("copy", folder, role="test"))
    (folder / DIGIT_WNIDS[1] / "another.jpg").write_bytes(b"")
    with pytest.raises(Rejected, match=r"shares files with .* the test set copy"):
        added(place, NewSet("again", tmp_path / "link", role="train"))


def test_a_set_beside_one_of_another_role_is_registered(place: Place, folder: Path, tmp_path: Path) -> None:
    beside = tmp_path / "copy-of-others"
    Image.new("RGB", (8, 8)).save(write_folder(beside / DIGIT_WNIDS[0]) / "a.jpg")
    added(place, NewSet("copy", folder, role="test"))
    assert added(place, NewSet("beside", beside, role="train")).images == 1


def write_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_a_report_names_the_published_kind(place: Place, folder: Path) -> None:
    known = added(place, NewSet("copy", folder, role="test"))
    assert known.place is not None
    encoder = encoder_of(known.class_ids, Fixed([0.0] * 10))
    kinds = []
    for kind in (None, "imagenet-val"):
        tested = open_benchmark(known, encoder.card, cache_dir=place.cache_dir)
        published = tested._replace(known=known._replace(place=known.place._replace(kind=kind)))
        kinds.append(measure(encoder, published, place.device, lambda: None).report.kind)
    assert kinds == [None, "imagenet-val"]


def test_a_published_set_with_other_counts_is_refused_unless_it_is_a_cut(place: Place, folder: Path) -> None:
    with pytest.raises(Rejected, match="unknown class"):
        added(place, NewSet("val", folder, kind="imagenet-val"))


def test_a_name_is_taken_once(place: Place, folder: Path) -> None:
    added(place, NewSet("copy", folder, role="test"))
    for name in ("copy", "digits"):
        with pytest.raises(Conflict, match=f"{name} is registered already"):
            added(place, NewSet(name, folder, role="test"))


def test_a_removed_set_is_unknown(place: Place, folder: Path) -> None:
    added(place, NewSet("copy", folder, role="test"))
    with place.database.write() as session:
        assert benchmark(session, "copy").images == 60
        with pytest.raises(Rejected, match="copy is registered as a test set and cannot be trained on"):
            training_set(session, "copy")
        remove(session, "copy")
        with pytest.raises(Rejected, match="unknown real image set 'copy'"):
            benchmark(session, "copy")
        with pytest.raises(NotFound, match="'copy'"):
            remove(session, "copy")
