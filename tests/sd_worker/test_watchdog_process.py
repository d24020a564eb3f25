"""Real worker processes that have become useless end, so that whatever started them starts fresh ones."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import select

from services.dispatcher.doorbell import due_rings
from shared.queue import celery_app, ring
from shared.settings import Settings
from shared.tables import Worker
from shared.tasks import stop_file
from tests.addresses import redis_url
from tests.processes import Processes, wait_until

from .place import Place

BROKER = redis_url()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data")


@pytest.fixture
def processes(tmp_path: Path, place: Place) -> Iterator[Processes]:
    environment = {"SYNTHCLONE_DATA_DIR": str(place.settings.data_dir), "SYNTHCLONE_WATCHDOG_SECONDS": "3"}
    with Processes(tmp_path, environment) as running:
        yield running


@pytest.fixture
def broker() -> Iterator[str]:
    client = redis.Redis.from_url(BROKER)
    try:
        client.flushdb()
    except redis.exceptions.ConnectionError as error:
        pytest.skip(f"Redis does not answer: {error}")
    yield BROKER
    client.flushdb()


def is_present(place: Place) -> bool | None:
    with place.database.read() as session:
        return session.scalar(select(Worker.id)) is not None or None


def rings(place: Place, url: str) -> None:
    """What a dispatcher does once a second."""
    with place.database.write() as session:
        kinds = due_rings(session, ring_again_seconds=1)
    for kind in kinds:
        ring(celery_app(Settings(redis_url=url)), kind)


@pytest.mark.slow
def test_a_polling_worker_that_hangs_ends_itself(place: Place, processes: Processes) -> None:
    place.dataset(per_class=4)
    worker = processes.module("tests.sd_worker.stuck")
    assert worker.wait(120) == 1
    assert "has not tried to claim any for 3 s" in processes.logs()


@pytest.mark.slow
@pytest.mark.redis
def test_a_celery_worker_whose_parent_is_deaf_ends_with_it(place: Place, processes: Processes, broker: str) -> None:
    worker = processes.celery("tests.faults.stand_in", "generate", SYNTHCLONE_REDIS_URL=broker)
    wait_until(lambda: is_present(place), seconds=120, what="the pool child")
    os.kill(worker.pid, signal.SIGSTOP)
    place.dataset(per_class=4)

    def died() -> int | None:
        rings(place, broker)
        return worker.poll()

    assert wait_until(died, seconds=120, what="the end of the deaf worker") == -signal.SIGKILL
    assert place.shard_states() == {("pending", 0)}


@pytest.mark.slow
@pytest.mark.redis
def test_a_celery_worker_that_hears_is_left_alone(place: Place, processes: Processes, broker: str) -> None:
    worker = processes.celery("tests.faults.stand_in", "generate", SYNTHCLONE_REDIS_URL=broker)
    wait_until(lambda: is_present(place), seconds=120, what="the pool child")
    job_id = place.dataset(per_class=4)

    def ended() -> bool | None:
        rings(place, broker)
        return place.ended(job_id) is not None or None

    wait_until(ended, seconds=60, what="the end of the dataset")
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait(60) == 0
    assert not stop_file(worker.pid).exists()
    assert place.job(job_id).state == "succeeded"
