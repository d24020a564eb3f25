"""An error of the accelerator itself ends the process, and costs only what was on the device an attempt."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from services.sd_worker.machine import Machine
from services.sd_worker.worker import ShardWorker
from shared.tables import Shard
from tests.processes import Processes, wait_until

from .devices import Device
from .place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data")


def reasons(place: Place) -> set[str | None]:
    with place.database.read() as session:
        return set(session.scalars(select(Shard.error)))


@pytest.mark.parametrize("step", ["start 1", "wait 0", "wait 1"])
def test_only_shards_on_the_device_lose_an_attempt(place: Place, step: str) -> None:
    def fail(at: str, prompts: Sequence[str]) -> None:
        if at == step:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    place.dataset(per_class=100)
    worker = ShardWorker(place.settings, make_generator=Device(fail).make)
    with pytest.raises(SystemExit, match=r"cpu failed: CUDA error: device-side assert triggered"):
        worker.work(threading.Event())
    worker.close()
    assert place.shard_states() == {("pending", 1), ("pending", 0)}
    assert reasons(place) == {"cpu failed: CUDA error: device-side assert triggered", None}


def test_a_device_that_takes_no_model_costs_no_attempt(place: Place) -> None:
    def make(folder: Path, machine: Machine) -> Device:
        raise torch.AcceleratorError("CUDA error: all CUDA-capable devices are busy or unavailable")

    place.dataset(per_class=4)
    worker = ShardWorker(place.settings, make_generator=make)
    with pytest.raises(SystemExit, match="busy or unavailable"):
        worker.work(threading.Event())
    worker.close()
    assert place.shard_states() == {("pending", 0)}


@pytest.mark.slow
def test_the_process_ends_with_the_reason_and_another_goes_on(place: Place, tmp_path: Path) -> None:
    job_id = place.dataset(per_class=100)
    environment = {
        "SYNTHCLONE_DATA_DIR": str(place.settings.data_dir),
        "SYNTHCLONE_BATCH_SIZE": "16",
        "SYNTHCLONE_POLL_SECONDS": "0.1",
    }
    with Processes(tmp_path, environment) as processes:
        broken = processes.module("tests.sd_worker.broken_device")
        assert broken.wait(120) == 1
        assert "the device failed, so this process ends" in processes.logs()
        assert place.shard_states() == {("pending", 1), ("pending", 0)}
        processes.module("tests.faults.stand_in")
        job = wait_until(lambda: place.ended(job_id), seconds=120, what="the end of the dataset")
    assert (job.state, job.done) == ("succeeded", 200)
