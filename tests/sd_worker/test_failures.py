"""Whose failure it is decides what it costs: an attempt, all of them, none, or the process."""

import errno
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from services.sd_worker.failures import device_fault
from services.sd_worker.machine import Machine
from services.sd_worker.worker import MOST_FAILURES, ShardWorker
from shared import leases
from shared.errors import ConfigurationError, Rejected, Unavailable
from shared.tables import Shard, Worker
from tests.faults.noise import Noise

from .devices import Device
from .place import Place

CUDA = torch.device("cuda")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data")


def reasons(place: Place) -> set[str | None]:
    with place.database.read() as session:
        return set(session.scalars(select(Shard.error)))


def test_what_no_worker_can_draw_fails_at_once_and_the_worker_goes_on(place: Place) -> None:
    def refuse(step: str, prompts: Sequence[str]) -> None:
        raise Rejected("only diffusers' pipeline can draw this")

    place.settings = place.settings.model_copy(update={"shard_slots": 4})
    place.dataset(per_class=4 * MOST_FAILURES)
    worker = ShardWorker(place.settings, make_generator=Device(refuse).make)
    worker.work(threading.Event())
    worker.close()
    assert place.shard_states() == {("failed", 1)}
    assert reasons(place) == {"only diffusers' pipeline can draw this"}


def test_a_batch_that_does_not_fit_uses_up_attempts_and_the_worker_goes_on(place: Place) -> None:
    def refuse(step: str, prompts: Sequence[str]) -> None:
        raise ConfigurationError("needs 40 GiB; set SYNTHCLONE_BATCH_SIZE=8")

    place.dataset(per_class=4)
    worker = ShardWorker(place.settings, make_generator=Device(refuse).make)
    worker.work(threading.Event())
    worker.close()
    assert place.shard_states() == {("failed", place.settings.max_attempts)}
    assert reasons(place) == {"needs 40 GiB; set SYNTHCLONE_BATCH_SIZE=8"}


def test_a_model_that_a_machine_cannot_take_is_left_to_others(place: Place) -> None:
    def make(folder: Path, machine: Machine) -> Noise:
        raise ConfigurationError("the weights do not fit")

    job_id = place.dataset(per_class=4)
    worker = ShardWorker(place.settings, make_generator=make)
    assert "digits-sd" in worker.models.names
    assert not worker.work(threading.Event())
    with place.database.read() as session:
        assert "digits-sd" not in session.get_one(Worker, worker.presence.id).models
    assert worker.readiness.checks()["weights"] == "the weights do not fit"
    assert not worker.work(threading.Event())
    worker.close()
    assert place.shard_states() == {("pending", 0)}
    other = ShardWorker(place.settings, make_generator=Noise)
    assert other.work(threading.Event())
    other.close()
    assert place.ended(job_id) is not None


def test_a_disk_without_room_for_a_jpeg_costs_no_attempt(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.dataset(per_class=4)
    worker = ShardWorker(place.settings, make_generator=Noise)
    monkeypatch.setattr(tempfile, "tempdir", str(place.settings.data_dir / "missing"))
    with pytest.raises(Unavailable, match=rf"missing: .*{os.strerror(errno.ENOENT)}.*make room there"):
        worker.work(threading.Event())
    monkeypatch.undo()
    assert place.shard_states() == {("pending", 0)}
    assert worker.work(threading.Event())
    worker.close()
    assert place.shard_states() == {("done", 1)}


def broken(step: str, prompts: Sequence[str]) -> None:
    raise torch.AcceleratorError("CUDA error: unspecified launch failure")


def test_a_database_that_is_away_keeps_no_process_alive_whose_device_failed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise Unavailable("the database does not answer")

    place.dataset(per_class=4)
    worker = ShardWorker(place.settings, make_generator=Device(broken).make)
    monkeypatch.setattr(leases, "give_up", away)
    monkeypatch.setattr(leases, "release", away)
    with pytest.raises(SystemExit, match="cpu failed: CUDA error: unspecified launch failure"):
        worker.work(threading.Event())
    monkeypatch.undo()
    worker.close()


def test_a_store_that_is_away_keeps_no_process_alive_that_failed_too_often(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(step: str, prompts: Sequence[str]) -> None:
        raise RuntimeError("no batch works")

    def settle() -> None:
        raise Unavailable("the object store does not answer")

    place.dataset(per_class=100)
    worker = ShardWorker(place.settings, make_generator=Device(fail).make)
    monkeypatch.setattr(worker.uploads, "settle", settle)
    for _ in range(2):  # whatever calls it again
        with pytest.raises(SystemExit, match="failures in a row"):
            worker.work(threading.Event())
    monkeypatch.undo()
    worker.close()


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_library_on_the_gpu_may_name_a_lost_device_otherwise(is_lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU to lose here: only torch's question to it is answered by the test."""

    def synchronize(device: torch.device) -> None:
        assert device == CUDA
        if is_lost:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    found = device_fault(RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"), CUDA)
    assert (found is not None) == is_lost
    assert device_fault(torch.OutOfMemoryError("no room"), CUDA) is None
    assert device_fault(RuntimeError("of the batch"), torch.device("cpu")) is None
