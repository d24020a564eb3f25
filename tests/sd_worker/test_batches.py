"""Batches through the real worker, with a device that takes a batch before the last one is done."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from services.sd_worker.loading import MakeGenerator
from services.sd_worker.worker import ShardWorker
from shared.tables import Shard
from shared.tasks import drain
from tests.faults.noise import Noise

from .devices import Device
from .place import DIGITS, Place

SOME_PASS = 73.6  # grey levels; of uniform noise about half of the images have a larger standard deviation


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data")


@contextmanager
def working(place: Place, make_generator: MakeGenerator, **settings: object) -> Iterator[ShardWorker]:
    worker = ShardWorker(place.settings.model_copy(update=settings), make_generator=make_generator)
    try:
        yield worker
    finally:
        worker.close()


def draw_all(place: Place, make_generator: MakeGenerator, **settings: object) -> None:
    with working(place, make_generator, **settings) as worker:
        drain(worker, threading.Event(), seconds=60, pause_seconds=0.1)


def test_a_batch_is_started_before_the_last_one_is_waited_for(place: Place) -> None:
    place.dataset(per_class=32)
    device = Device()
    draw_all(place, device.make)
    overlapping = ["start 0", "start 1", "wait 0", "start 2", "wait 1", "start 3", "wait 2", "wait 3"]
    assert device.steps == overlapping


def test_a_batch_that_is_ready_at_once_is_taken_before_the_next(place: Place) -> None:
    place.dataset(per_class=32)
    with working(place, Noise) as worker:
        worker.turn()
        assert not worker.batches.drawing


def test_a_batch_that_is_not_full_waits_for_those_under_way(place: Place) -> None:
    """The gate may send back what fills it."""
    place.dataset(per_class=12)
    device = Device()
    draw_all(place, device.make)
    assert device.steps == ["start 0", "wait 0", "start 1", "wait 1"]
    assert [images for _, images in device.started] == [16, 8]


def test_rejected_slots_are_drawn_before_new_ones(place: Place) -> None:
    place.dataset(per_class=32, min_std=300)
    with working(place, Device().make) as worker:
        worker.turn()
        worker.finish()
        assert [(slot.slot, slot.attempt) for slot in worker.queue][:16] == [(slot, 1) for slot in range(16)]


def test_shards_have_the_same_bytes_whatever_the_order_of_events(tmp_path: Path, place: Place) -> None:
    found = []
    for folder, make_generator, batch_size in (("one", Noise, 5), ("other", Device().make, 16)):
        other = Place(tmp_path / folder)
        job_id = other.dataset(per_class=40, min_std=SOME_PASS)
        draw_all(other, make_generator, batch_size=batch_size)
        job = other.ended(job_id)
        assert job is not None
        assert job.rejected > 0
        found.append({shard["sha256"] for shard in other.manifest(job_id)["shards"]})
    assert found[0] == found[1]


def test_another_recipe_waits_until_nothing_of_this_one_is_under_way(place: Place) -> None:
    """The gate may send back slots of this one."""
    for steps in (2, 3):
        place.dataset(per_class=4, steps=steps)
    with working(place, Device().make) as worker:
        worker.turn()
        worker.refill()
        assert [order.shard.recipe.steps for order in worker.batches.drawing[0].orders] == 8 * [2]
        assert (len(worker.next_leases), len(worker.queue)) == (2, 0)
        worker.finish()
        worker.refill()
        assert (len(worker.next_leases), len(worker.queue)) == (0, 8)


def test_a_batch_that_fails_costs_no_attempt_of_the_others_under_way(place: Place) -> None:
    def fail(step: str, prompts: Sequence[str]) -> None:
        if step.startswith("wait") and DIGITS["n13742358"] in prompts:
            raise RuntimeError("this class cannot be drawn")

    job_id = place.dataset(per_class=16)
    draw_all(place, Device(fail).make, max_attempts=2)
    job = place.ended(job_id)
    assert job is not None
    assert (job.state, job.done, job.failed) == ("partial", 16, 16)
    assert place.shard_states() == {("failed", 2), ("done", 1)}


def test_what_comes_back_of_a_shard_that_was_lost_does_not_mix_with_its_next_lease(place: Place) -> None:
    place.dataset(per_class=16, min_std=300)
    with working(place, Device().make) as worker:
        worker.turn()
        lease = worker.batches.drawing[0].orders[0].shard.lease
        worker.forget({lease.shard_id})
        worker.accept([lease._replace(fence=lease.fence + 1)])
        worker.finish()
        assert {slot.attempt for slot in worker.queue} == {0}


def test_a_worker_told_to_stop_stores_what_is_complete_and_starts_nothing(place: Place) -> None:
    stop = threading.Event()
    device = Device(lambda step, prompts: stop.set() if step == "wait 0" else None)
    place.dataset(per_class=24)
    with working(place, device.make) as worker:
        worker.work(stop)
    assert device.steps == ["start 0", "start 1", "wait 0", "wait 1"]
    assert place.shard_states() == {("done", 1), ("pending", 0)}


def test_drawing_time_is_split_by_the_slots_of_a_batch(place: Place) -> None:
    place.dataset(per_class=4)
    with working(place, Noise, batch_size=6) as worker:
        worker.turn()
        first, second = (shard.seconds for shard in worker.works.values())
    assert first == pytest.approx(2 * second)  # four of the six slots are the first shard's


def test_drawing_times_of_overlapping_batches_do_not_add_up_to_more_than_went_by(place: Place) -> None:
    pause = threading.Event()
    place.dataset(per_class=64)
    device = Device(lambda step, prompts: pause.wait(0.05) and None)
    with working(place, device.make) as worker:
        began = time.monotonic()
        for _ in range(6):
            worker.turn()
        went_by = time.monotonic() - began
        assert 0 < sum(shard.seconds for shard in worker.works.values()) <= went_by


def test_the_reason_of_a_shard_too_large_for_the_device_is_the_devices_own(place: Place) -> None:
    def fail(step: str, prompts: Sequence[str]) -> None:
        raise torch.OutOfMemoryError("16 images do not fit; SYNTHCLONE_BATCH_SIZE=8 would")

    place.dataset(per_class=4)
    draw_all(place, Device(fail).make, max_attempts=1)
    with place.database.read() as session:
        reasons = set(session.scalars(select(Shard.error)))
    assert reasons == {"OutOfMemoryError: 16 images do not fit; SYNTHCLONE_BATCH_SIZE=8 would"}
