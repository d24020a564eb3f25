"""Shards that cannot be drawn, or that no process survives, fail alone after as many attempts as are allowed."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from services.sd_worker.worker import ShardWorker
from shared.tables import DatasetClass, Shard
from shared.tasks import drain
from tests.faults.model import KILLS, RAISES
from tests.faults.noise import Noise
from tests.processes import Processes

from .place import DIGITS, Place

ATTEMPTS = 3


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "data")
    place.settings = place.settings.model_copy(update={"lease_seconds": 2, "max_attempts": ATTEMPTS})
    return place


@pytest.fixture
def processes(tmp_path: Path, place: Place) -> Iterator[Processes]:
    environment = {
        "SYNTHCLONE_DATA_DIR": str(place.settings.data_dir),
        "SYNTHCLONE_LEASE_SECONDS": "2",
        "SYNTHCLONE_MAX_ATTEMPTS": str(ATTEMPTS),
        "SYNTHCLONE_POLL_SECONDS": "0.1",
    }
    with Processes(tmp_path, environment) as running:
        yield running


def poison(place: Place, word: str) -> None:
    """The first of the two classes gets the word as its name, and so as its prompt."""
    class_id = next(iter(DIGITS))
    with place.database.write() as session:
        text = {"id": class_id, "names": [word]}
        session.execute(update(DatasetClass).where(DatasetClass.class_id == class_id).values(text=text))


def ends_of_shards(place: Place) -> list[tuple[str, int]]:
    query = select(Shard.state, Shard.attempts).order_by(Shard.class_key)
    with place.database.read() as session:
        return [(state, attempts) for state, attempts in session.execute(query)]


def test_a_shard_that_raises_fails_alone_after_its_last_attempt(place: Place) -> None:
    job_id = place.dataset(per_class=4)
    poison(place, RAISES)
    worker = ShardWorker(place.settings, make_generator=Noise)
    with pytest.raises(SystemExit):  # three failures in a row: a fresh process is due
        drain(worker, threading.Event(), seconds=30, pause_seconds=0.1)
    drain(worker, threading.Event(), seconds=30, pause_seconds=0.1)
    worker.close()
    job = place.ended(job_id)
    assert job is not None
    assert (job.state, job.done, job.failed) == ("partial", 4, 4)
    assert "cannot be drawn" in str(job.error)
    assert ends_of_shards(place)[0] == ("failed", ATTEMPTS)


@pytest.mark.slow
def test_a_shard_that_kills_its_process_fails_alone_after_its_last_attempt(place: Place, processes: Processes) -> None:
    job_id = place.dataset(per_class=4)
    poison(place, KILLS)
    job, deaths = None, 0
    deadline = time.monotonic() + 300
    worker = processes.module("tests.faults.stand_in")
    while (job := place.ended(job_id)) is None and time.monotonic() < deadline:
        if worker.poll() is not None:
            deaths += worker.returncode == 9
            worker = processes.module("tests.faults.stand_in")
        time.sleep(0.2)
    assert job is not None
    assert (job.state, job.done, job.failed) == ("partial", 4, 4)
    assert "lost with its worker 3 times" in str(job.error)
    assert (deaths, ends_of_shards(place)[0]) == (ATTEMPTS, ("failed", ATTEMPTS))
