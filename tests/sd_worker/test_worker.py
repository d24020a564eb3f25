"""Real worker processes on a real database and store; the API is not needed to make rows."""

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from services.sd_worker.loading import Models, load_generator
from services.sd_worker.machine import machine_of
from services.sd_worker.worker import ShardWorker
from shared.errors import Unavailable
from shared.models import find_model, folder_digest
from shared.tables import DatasetClass, Shard, Worker
from tests.addresses import free_port
from tests.processes import Processes, kill, wait_until
from tests.rows import RECIPE

from .place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data")


@pytest.fixture
def processes(tmp_path: Path, place: Place) -> Iterator[Processes]:
    environment = {
        "SYNTHCLONE_DATA_DIR": str(place.settings.data_dir),
        "SYNTHCLONE_LEASE_SECONDS": "4",
        "SYNTHCLONE_POLL_SECONDS": "0.1",
    }
    with Processes(tmp_path, environment) as running:
        yield running


def work_once(place: Place, stop: threading.Event | None = None) -> None:
    worker = ShardWorker(place.settings)
    try:
        worker.work(stop or threading.Event())
    finally:
        worker.close()


def test_a_dataset_is_drawn_stored_and_counted(place: Place) -> None:
    job_id = place.dataset(per_class=20)
    work_once(place)
    job = place.ended(job_id)
    assert job is not None
    assert (job.state, job.done, job.failed) == ("succeeded", 40, 0)
    samples = place.samples(job_id)
    assert len(samples) == 40
    assert {metadata["prompt"] for _, metadata in samples.values()} == {"zero", "one"}


def test_images_the_gate_rejects_are_drawn_again_and_then_reported_short(place: Place) -> None:
    job_id = place.dataset(per_class=3, min_std=300)  # no image has a standard deviation of 300 grey levels
    work_once(place)
    job = place.ended(job_id)
    assert job is not None
    assert (job.state, job.done, job.failed) == ("failed", 0, 6)
    assert job.rejected == 6 * RECIPE.gate.max_attempts
    assert job.error is not None
    assert "n13742358 3" in str(job.error["detail"])


def test_a_worker_told_to_stop_gives_its_shards_back_uncounted(place: Place) -> None:
    place.dataset(per_class=200)
    worker = ShardWorker(place.settings)
    worker.accept(worker.claim())
    stop = threading.Event()
    stop.set()
    worker.work(stop)
    worker.close()
    with place.database.read() as session:
        states = session.execute(select(Shard.state, Shard.attempts).distinct()).all()
    assert [tuple(row) for row in states] == [("pending", 0)]


def test_kill_9_and_another_batch_size_change_no_image(tmp_path: Path, place: Place, processes: Processes) -> None:
    """Two runs, one of them killed in mid-shard: same keys, prompts and seeds, pixels within one grey level."""
    undisturbed = Place(tmp_path / "undisturbed")
    expected_id = undisturbed.dataset(per_class=140, steps=4)
    work_once(undisturbed)
    assert undisturbed.ended(expected_id) is not None

    job_id = place.dataset(per_class=140, steps=4)
    victim = processes.module("services.sd_worker", SYNTHCLONE_BATCH_SIZE="4")
    wait_until(lambda: in_mid_shard(place), seconds=60, what="a shard lease")
    kill(victim)
    assert place.job(job_id).done < 280
    processes.module("services.sd_worker", SYNTHCLONE_BATCH_SIZE="24")
    job = wait_until(lambda: place.ended(job_id), seconds=120, what="the end of the dataset")

    assert (job.state, job.done) == ("succeeded", 280)
    assert drawn_parts(place.manifest(job_id)) == drawn_parts(undisturbed.manifest(expected_id))
    found, expected = place.samples(job_id), undisturbed.samples(expected_id)
    assert found.keys() == expected.keys()
    for key, (pixels, metadata) in expected.items():
        drawn_from = ("prompt", "seed", "attempt", "model_digest")
        assert [found[key][1][field] for field in drawn_from] == [metadata[field] for field in drawn_from]
        # JPEG can turn one grey level before encoding into a few after it.
        assert np.abs(found[key][0] - pixels).max() <= 4


def drawn_parts(manifest: dict[str, Any]) -> list[tuple[object, ...]]:
    """What must not depend on who drew it; object keys hold the fence, bytes the rounding of the batch shape."""
    fields = ("class_id", "label", "start", "stop", "take", "accepted")
    return [tuple(shard[field] for field in fields) for shard in manifest["shards"]]


def in_mid_shard(place: Place) -> bool | None:
    with place.database.read() as session:
        busy = session.scalar(select(Worker.id).where(Worker.busy))  # written as drawing begins
        leased = session.scalar(select(Shard.id).where(Shard.state == "leased"))
    return True if busy and leased else None


def test_sigterm_ends_a_polling_worker_cleanly(place: Place, processes: Processes) -> None:
    place.dataset(per_class=2000, steps=20)
    worker = processes.module("services.sd_worker", SYNTHCLONE_BATCH_SIZE="4")
    wait_until(lambda: in_mid_shard(place), seconds=60, what="a shard lease")
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait(30) == 0
    with place.database.read() as session:
        assert set(session.scalars(select(Shard.state))) <= {"pending", "done"}
        assert session.scalars(select(Worker.id)).all() == []


def test_a_shard_that_cannot_be_drawn_fails_with_its_reason(place: Place) -> None:
    job_id = place.dataset(per_class=2)
    with place.database.write() as session:
        session.execute(update(DatasetClass).values(text={"id": "n1", "names": []}))
    settings = place.settings.model_copy(update={"max_attempts": 1})
    place.settings = settings
    work_once(place)
    job = place.ended(job_id)
    assert job is not None
    assert job.state == "failed"
    assert "IndexError" in str((job.error or {})["detail"])


def test_a_worker_whose_every_batch_fails_ends_so_that_a_fresh_one_takes_over(place: Place) -> None:
    place.dataset(per_class=2)
    with place.database.write() as session:
        session.execute(update(DatasetClass).values(text={"id": "n1", "names": []}))
    with pytest.raises(SystemExit, match="3 failures in a row"):
        work_once(place)
    with place.database.read() as session:
        assert set(session.scalars(select(Shard.state))) == {"pending"}


def test_a_store_that_stays_away_costs_no_attempt(place: Place) -> None:
    place.dataset(per_class=4)
    place.settings.objects_dir.joinpath("images").write_text("in the way")
    place.settings = place.settings.model_copy(update={"upload_seconds": 1})
    with pytest.raises(Unavailable, match="cannot write"):
        work_once(place)
    assert place.shard_states() == {("pending", 0)}


def test_weights_registered_anew_under_the_same_name_are_not_used_for_an_old_recipe(place: Place) -> None:
    job_id = place.dataset(per_class=2, model_digest="sha256:other")
    place.settings = place.settings.model_copy(update={"max_attempts": 1})
    work_once(place)
    job = place.ended(job_id)
    assert job is not None
    assert job.state == "failed"
    assert "made with sha256:other" in str((job.error or {})["detail"])


def test_readyz_tells_what_is_missing_and_the_remedy(place: Place, tmp_path: Path) -> None:
    settings = place.settings.model_copy(
        update={"models_dir": tmp_path / "empty", "default_model": "sd14", "worker_health_port": free_port()}
    )
    worker = ShardWorker(settings)
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{settings.worker_health_port}/readyz", timeout=5)
        answer = json.loads(refused.value.read())
    finally:
        worker.close()
    assert refused.value.code == 503
    assert (answer["checks"]["database"], answer["checks"]["objects"]) == ("ok", "ok")
    assert "hf download CompVis/stable-diffusion-v1-4" in answer["checks"]["weights"]


def test_readyz_of_a_worker_that_can_draw(place: Place) -> None:
    settings = place.settings.model_copy(update={"worker_health_port": free_port()})
    worker = ShardWorker(settings)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.worker_health_port}/readyz", timeout=5) as answer:
            assert json.load(answer)["ready"] is True
    finally:
        worker.close()


def test_damaged_weights_are_not_used(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "digits-sd"
    source = find_model(place.settings, "digits-sd").path(place.settings)
    for file in source.rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    settings = place.settings.model_copy(update={"models_dir": tmp_path / "models"})
    machine = machine_of(settings)
    assert Models(settings, machine, load_generator).names == ["digits-sd"]
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    models = Models(settings, machine, load_generator)
    assert models.names == []
    assert folder_digest(folder) in models.problems["digits-sd"]
    assert "hf download" in models.problems["sd14"]
