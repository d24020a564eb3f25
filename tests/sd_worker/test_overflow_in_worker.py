"""A model that overflows half precision, drawn by the real worker in the type of its card."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from sqlalchemy import select

from services.sd_worker.worker import ShardWorker
from shared.models import ModelEntry, find_model, folder_digest
from shared.settings import PROJECT_ROOT, Settings
from shared.tables import Event, Job
from shared.tasks import drain

from .place import Place

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TOO_LARGE = "down_blocks.0.resnets.0.conv2.weight"


def overflowing(folder: Path, dtype: str) -> ModelEntry:
    """The built-in model under its own name, with weights whose products leave float16."""
    shutil.copytree(PROJECT_ROOT / "models/digits-sd", folder / "digits-sd")
    weights = load_file(folder / "digits-sd" / WEIGHTS)
    save_file({**weights, TOO_LARGE: weights[TOO_LARGE] * 1e5}, folder / "digits-sd" / WEIGHTS, {"format": "pt"})
    card = find_model(Settings(), "digits-sd")
    return card.model_copy(update={"digest": folder_digest(folder / "digits-sd"), "dtype": dtype})


def drawn(tmp_path: Path, dtype: str) -> tuple[Job, list[str]]:
    """The job after it ended, and the details of its events."""
    place = Place(tmp_path / "data")
    entry = overflowing(tmp_path / "models", dtype)
    (tmp_path / "models.json").write_text(json.dumps([entry.model_dump(mode="json")]))
    job_id = place.dataset(per_class=1, min_std=0.0, model_digest=entry.digest)
    files = {"models_dir": tmp_path / "models", "models_file": tmp_path / "models.json"}
    worker = ShardWorker(place.settings.model_copy(update=files))
    drain(worker, threading.Event(), seconds=120, pause_seconds=0.1)
    worker.close()
    job = place.ended(job_id)
    assert job is not None
    with place.database.read() as session:
        payloads = session.scalars(select(Event.payload).where(Event.type == "not-finite")).all()
    return job, [str(payload["detail"]) for payload in payloads]


@pytest.mark.slow
def test_in_half_precision_no_image_is_stored_and_the_job_says_where_it_overflows(tmp_path: Path) -> None:
    job, details = drawn(tmp_path, "float16")
    assert (job.state, job.done) == ("failed", 0)
    assert len(details) == 1
    assert details[0].startswith("unet.down_blocks.0.resnets.0.conv2 is the first whose output is not finite")
    assert job.error is not None
    assert details[0] in str(job.error["detail"])


@pytest.mark.slow
def test_in_the_type_of_the_remedy_it_is_drawn(tmp_path: Path) -> None:
    job, details = drawn(tmp_path, "float32")
    assert (job.state, job.done, details) == ("succeeded", 2, [])
