"""Where a network overflows is found and told to who asked for the images."""

import shutil
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import pytest
import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from sqlalchemy import select

from services.sd_worker.generate import Drawing, ShardWork, Slot
from services.sd_worker.overflow import Overflow, find_overflow
from services.sd_worker.overflow_reports import OverflowReports, explain
from services.sd_worker.pipeline import load_pipeline
from shared.approximations import Approximation
from shared.leases import ShardLease
from shared.models import DType, find_model
from shared.prompts import Prompt
from shared.settings import PROJECT_ROOT
from shared.specs import Recipe
from shared.tables import Event
from tests.rows import RECIPE, claim

from .place import Place

DIGITS = PROJECT_ROOT / "models" / "digits-sd"
CPU = torch.device("cpu")
SHORT = RECIPE.model_copy(update={"steps": 3, "scheduler": "ddim"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DIGITS, tmp_path / "models" / "digits-sd"))


def scale(folder: Path, weight: str, factor: float, part: str = "unet") -> None:
    file = folder / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights[weight] = weights[weight] * factor
    save_file(weights, file, metadata={"format": "pt"})


def find(folder: Path, dtype: DType, recipe: Recipe = SHORT) -> Overflow | None:
    return find_overflow(load_pipeline(folder, CPU, dtype), "seven", 1, recipe)


def test_the_module_that_overflows_half_precision_is_found_at_its_first_evaluation(folder: Path) -> None:
    # Its input is normalised, so its output is beyond 65504 though every weight is below.
    scale(folder, "down_blocks.0.resnets.0.conv2.weight", 1e5)
    found = find(folder, "float16")
    assert found is not None
    assert (found.place, found.evaluation, found.dtype) == ("unet.down_blocks.0.resnets.0.conv2", 1, "float16")
    assert 0 < found.largest < 65504
    assert "a dtype of float32 or bfloat16" in found.remedy


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_wider_types_of_the_remedy_draw_it(folder: Path, dtype: DType) -> None:
    scale(folder, "down_blocks.0.resnets.0.conv2.weight", 1e5)
    assert find(folder, dtype) is None


def test_weights_that_are_themselves_at_fault_are_told_as_such(folder: Path) -> None:
    scale(folder, "mid_block.resnets.0.conv1.weight", float("inf"))
    found = find(folder, "float32")
    assert found is not None
    assert found.place == "unet.mid_block.resnets.0.conv1"
    assert "fetch the model again" in found.remedy


def test_the_decoder_is_watched_too(folder: Path) -> None:
    scale(folder, "decoder.conv_out.weight", float("inf"), part="vae")
    found = find(folder, "float32")
    assert found is not None
    assert found.place == "vae.decoder.conv_out"


def test_the_sampler_is_watched_too(folder: Path) -> None:
    """The network's outputs are finite in float16, twenty times their difference is not."""
    scale(folder, "conv_out.weight", 1.5e4)
    found = find(folder, "float16", SHORT.model_copy(update={"guidance": 50.0}))
    assert found is not None
    assert found.place == "the sampler DDIMScheduler"


def test_a_sound_model_is_finite_and_no_hook_stays(folder: Path) -> None:
    pipeline = load_pipeline(folder, CPU)
    assert find_overflow(pipeline, "seven", 1, SHORT) is None
    modules = [module for part in (pipeline.text_encoder, pipeline.unet, pipeline.vae) for module in part.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_every_live_dataset_is_told_once(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Place(tmp_path / "place")
    scale(folder, "mid_block.resnets.0.conv1.weight", float("inf"))
    settings = place.settings.model_copy(update={"models_dir": folder.parent})
    digest = find_model(settings, "digits-sd").digest
    jobs = {place.dataset(per_class=2), place.dataset(per_class=2)}
    lease = claim(place.database, limit=1)[0]
    work = ShardWork(lease, SHORT.model_copy(update={"model_digest": digest}), "digits-sd")
    reports = OverflowReports(settings, place.database, CPU)
    drawing = work.drawing(Slot(lease.shard_id, lease.start_slot, 0))
    for _ in range(2):
        reports.report(work, drawing)
    OverflowReports(settings, place.database, CPU).report(work, drawing)  # another worker's
    with place.database.read() as session:
        events = session.execute(select(Event.job_id, Event.payload).where(Event.type == "not-finite")).all()
    assert {event.job_id for event in events} == jobs
    assert len(events) == len(jobs)
    assert "unet.mid_block.resnets.0.conv1 is the first" in str(events[0].payload["detail"])
    assert events[0].payload["seed"] == drawing.seed
    assert [record.message for record in caplog.records].count("an image is not finite") == 2


def first_drawing(lease: ShardLease) -> tuple[ShardWork, Drawing]:
    work = ShardWork(lease, SHORT, "digits-sd")
    return work, work.drawing(Slot(lease.shard_id, lease.start_slot, 0))


def told(place: Place) -> dict[str, dict[str, JsonValue]]:
    with place.database.read() as session:
        events = session.scalars(select(Event).where(Event.type == "not-finite")).all()
        return {event.job_id: event.payload for event in events}


def test_a_later_dataset_is_told_by_a_shard_of_its_own_without_another_look(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(tmp_path / "place")
    scale(folder, "mid_block.resnets.0.conv1.weight", float("inf"))
    settings = place.settings.model_copy(update={"models_dir": folder.parent})
    reports = OverflowReports(settings, place.database, CPU)
    first = place.dataset(per_class=2)
    work, drawing = first_drawing(claim(place.database, limit=2)[0])
    reports.report(work, drawing)
    later = place.dataset(per_class=4)
    assert set(told(place)) == {first}
    reports.report(*first_drawing(claim(place.database)[0]))
    events = told(place)
    assert set(events) == {first, later}
    assert events[later] == events[first]
    assert events[later]["seed"] == drawing.seed
    assert [record.message for record in caplog.records].count("an image is not finite") == 1


@pytest.mark.parametrize(
    ("approximation", "words"),
    [
        (None, "finite, so the engine's order of arithmetic is at fault; report it"),
        (Approximation(distilled=True), "finite, so the engine's order of arithmetic is at fault; report it"),
        (Approximation(reuse_every=2), "either the approximation or the engine's order of arithmetic is at fault"),
    ],
)
def test_the_engine_alone_is_blamed_only_where_it_drew_exactly(approximation: Approximation | None, words: str) -> None:
    recipe = SHORT.model_copy(update={"engine": approximation or "exact"})
    detail = explain(DIGITS, CPU, "float32", recipe=recipe, drawing=Drawing(Prompt("seven", None), 1))
    assert words in detail


def test_a_look_that_fails_is_told_and_costs_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    place.dataset(per_class=2)
    lease = claim(place.database)[0]
    work = ShardWork(lease, SHORT, "digits-sd")
    settings = place.settings.model_copy(update={"models_dir": tmp_path / "none"})
    OverflowReports(settings, place.database, CPU).report(work, work.drawing(Slot(lease.shard_id, 0, 0)))
    with place.database.read() as session:
        payload = session.scalars(select(Event.payload).where(Event.type == "not-finite")).one()
    assert str(payload["detail"]).startswith("where it began could not be found out: ConfigurationError: ")
