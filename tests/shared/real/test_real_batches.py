import shutil
import time
from pathlib import Path

from shared.vision.digits import DIGIT_WNIDS
from shared.vision.real.archives import Unpacking
from shared.vision.real.batches import eval_batches, eval_loaders
from shared.vision.real.decoding import EvalView
from shared.vision.real.layouts import read_listing

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import create_dataset, create_loader
from torch import Tensor, nn

from shared.errors import CorruptObject
from tests.shared.real.layouts import FORMS, small_images, write_imagefolder

IMAGES = small_images()
BATCH_SIZE = 16


def network(name: str, classes: int) -> nn.Module:
    torch.manual_seed(0)
    created: nn.Module = timm.create_model(name, num_classes=classes)
    return created.eval()


def outputs(model: nn.Module, batches: object) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        pairs = [(model(images), labels) for images, labels in batches]  # type: ignore[attr-defined]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])


def timm_batches(root: Path, view: EvalView) -> object:
    return create_loader(
        create_dataset("", root=str(root)),
        input_size=(3, view.size, view.size),
        batch_size=BATCH_SIZE,
        interpolation=view.interpolation,
        crop_pct=view.crop_pct,
        use_prefetcher=False,
        num_workers=2,
    )


def test_logits_equal_those_of_timms_own_loader_to_the_last_bit(tmp_path: Path) -> None:
    root = write_imagefolder(tmp_path / "set", IMAGES)
    model, view = network("resnet18", 10), EvalView(96, crop_pct=0.8)
    ours = outputs(model, eval_batches(read_listing("imagefolder", root), view, batch_size=BATCH_SIZE, workers=2))
    theirs = outputs(model, timm_batches(root, view))
    assert torch.equal(ours[1], theirs[1])
    assert torch.equal(ours[0], theirs[0])


def test_top_1_of_a_trained_network_is_that_of_timms_own_loader(tmp_path: Path) -> None:
    view = EvalView(32, crop_pct=1.0)
    digits = small_images(50)
    training = [image for at, image in enumerate(digits) if at % 5 != 0]
    held_out = digits[::5]
    learnt = read_listing("imagefolder", write_imagefolder(tmp_path / "train", training))
    model = fitted(network("test_resnet", 10), *next(eval_batches(learnt, view, batch_size=len(learnt), workers=0)))
    root = write_imagefolder(tmp_path / "test", held_out)
    ours = outputs(model, eval_batches(read_listing("imagefolder", root), view, batch_size=BATCH_SIZE, workers=2))
    theirs = outputs(model, timm_batches(root, view))
    hits, their_hits = (int((logits.argmax(1) == labels).sum()) for logits, labels in (ours, theirs))
    assert hits == their_hits
    assert hits > 60, "of 100 digits: the network has learnt something"


def fitted(model: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
    """A least-squares classifier on what the random network makes of the images."""
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
    ridge = features.T @ features + 0.1 * torch.eye(features.shape[1])
    head = model.get_classifier()  # type: ignore[operator]
    head.weight.data = torch.linalg.solve(ridge, features.T @ (2 * F.one_hot(labels, 10).float() - 1)).T.clone()
    head.bias.data.zero_()
    return model


@pytest.mark.parametrize("form", FORMS)
def test_workers_give_every_image_once_in_the_order_of_the_listing(form: str, tmp_path: Path) -> None:
    layout, name, write_form = FORMS[form]
    location = write_form(tmp_path / name, IMAGES)
    listing = read_listing(layout, location, classes=DIGIT_WNIDS, unpacking=Unpacking(tmp_path / "cache", 10**7))
    view = EvalView(32)
    alone = list(eval_batches(listing, view, batch_size=1, workers=0))
    together = list(eval_batches(listing, view, batch_size=BATCH_SIZE, workers=2))
    assert [len(labels) for _, labels in together] == [16, 16, 8]
    assert together[0][0].dtype == torch.float32
    assert torch.equal(torch.cat([images for images, _ in together]), torch.cat([images for images, _ in alone]))
    assert torch.cat([labels for _, labels in together]).tolist() == listing.labels.tolist()


def test_a_loader_reads_one_batch_ahead_and_no_more(tmp_path: Path) -> None:
    listing = read_listing("imagefolder", write_imagefolder(tmp_path / "set", IMAGES))
    batches = eval_batches(listing, EvalView(32), batch_size=1, workers=1)
    next(batches)
    time.sleep(1.0)  # more than the second and third take
    Path(listing.entry(2).path).unlink()
    next(batches)
    with pytest.raises(CorruptObject, match=listing.entry(2).name):
        next(batches)


def test_loaders_share_what_a_batch_needs_of_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.vision.loaders.SHARED_MEMORY", tmp_path)
    free = shutil.disk_usage(tmp_path).free
    one_batch = 3 * 4 * 32**2  # bytes, of one image
    assert eval_loaders(EvalView(32), 1) >= 1
    assert eval_loaders(EvalView(32), free // one_batch) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image_is_named_without_a_traceback(workers: int, tmp_path: Path) -> None:
    listing = read_listing("imagefolder", write_imagefolder(tmp_path / "set", IMAGES))
    entry = listing.entry(3)
    Path(entry.path).write_bytes(bytes(entry.file_bytes))
    with pytest.raises(CorruptObject) as damage:
        list(eval_batches(listing, EvalView(32), batch_size=4, workers=workers))
    assert damage.value.detail.startswith(f"{entry.name} in {entry.path}, {entry.file_bytes} bytes, cannot be decoded")
