import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from sqlalchemy import update

from services.trainer.child import read_ending
from services.trainer.consumer import make_consumer
from services.trainer.launch import launcher_command
from services.trainer.ranks import Ranks
from services.trainer.run import Place, train
from shared.database import Database
from shared.job_consumer import JobConsumer
from shared.job_leases import expire_jobs, finish_job
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import Job

from .rows import add_job, add_training, claim, read_job, tiny_request

# Long enough to be interrupted; its only checkpoint is the one it makes when told to stop.
LONG = tiny_request(steps=2000, checkpoint_steps=2000)


@pytest.fixture
def consumer(settings: Settings, database: Database) -> Iterator[JobConsumer]:
    consumer = make_consumer(settings)
    yield consumer
    consumer.close()


def test_a_queued_training_becomes_an_encoder(consumer: JobConsumer, database: Database, store: LocalStore) -> None:
    row = add_training(database, tiny_request())

    assert consumer.work(threading.Event())

    job = read_job(database, row)
    assert (job.state, job.done, job.total) == ("succeeded", 4, 4)
    assert job.result is not None
    assert store.size(str(job.result["encoder_key"]))
    assert not consumer.work(threading.Event())


def test_a_stopped_trainer_gives_the_training_back_with_its_checkpoint(
    consumer: JobConsumer, database: Database
) -> None:
    row = add_training(database, LONG)
    stop = threading.Event()
    worker = threading.Thread(target=consumer.work, args=(stop,))
    worker.start()
    wait_for(lambda: read_job(database, row).done > 0)

    stop.set()
    worker.join()

    job = read_job(database, row)
    assert (job.state, job.attempts, job.lease_owner) == ("queued", 0, None)
    assert job.checkpoint is not None
    assert int(str(job.checkpoint["step"])) >= job.done >= 10


def wait_for(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_crash_in_the_last_attempt_fails_the_training(consumer: JobConsumer, database: Database) -> None:
    row = add_job(database, "training", state="queued", spec={"made by": "another version"})
    consumer.work(threading.Event())
    job = read_job(database, row)
    assert job.state == "failed"
    assert job.error is not None
    assert "exit code 1; see the trainer's log" in str(job.error["detail"])


@pytest.mark.slow
def test_the_training_of_a_killed_trainer_saves_itself_and_ends(database: Database) -> None:
    row = add_training(database, LONG)
    trainer = subprocess.Popen([sys.executable, "-m", "services.trainer"])
    wait_for(lambda: read_job(database, row).done > 0)

    trainer.kill()
    trainer.wait()

    wait_for(lambda: read_job(database, row).checkpoint is not None)
    assert read_job(database, row).done < 2000


def kill_with_child(trainer: subprocess.Popen[bytes]) -> None:
    """As when the machine dies: the training process has no time to say anything."""
    children = Path(f"/proc/{trainer.pid}/task/{trainer.pid}/children").read_text().split()
    for pid in (trainer.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    trainer.wait()


@pytest.mark.slow
def test_a_training_killed_with_its_trainer_goes_on_at_its_checkpoint_and_ends_with_the_same_weights(
    consumer: JobConsumer, database: Database, store: LocalStore, capfd: pytest.CaptureFixture[str]
) -> None:
    request = tiny_request(steps=90, checkpoint_steps=30)
    undisturbed = add_training(database, request)
    consumer.work(threading.Event())
    row = add_training(database, request)
    trainer = subprocess.Popen([sys.executable, "-m", "services.trainer"])
    wait_for(lambda: read_job(database, row).checkpoint is not None)

    kill_with_child(trainer)
    committed = (read_job(database, row).checkpoint or {})["step"]
    wait_for(lambda: expired(database))
    capfd.readouterr()
    assert consumer.work(threading.Event())

    job = read_job(database, row)
    assert (job.state, job.attempts) == ("succeeded", 2)
    assert f"from_step={committed} " in capfd.readouterr().err
    weights = [(read_job(database, each).result or {})["encoder_sha256"] for each in (undisturbed, row)]
    assert weights[0] == weights[1]


def expired(database: Database) -> bool:
    with database.write() as session:
        return expire_jobs(session, max_attempts=5) == 1


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_the_network_that_one_would(
    place: Place, alone: Ranks, database: Database, tmp_path: Path, accumulate: int
) -> None:
    request = tiny_request(
        architecture="test_vit", optimizer="sgd", steps=10
    )  # no batch statistics, which ranks keep apart
    add_training(database, request)
    expected = train(place, claim(database), alone, threading.Event())
    add_training(database, request.model_copy(update={"accumulate": accumulate}))
    lease = claim(database)

    subprocess.run(launcher_command(2, [lease.job_id, str(lease.fence), str(tmp_path)]), check=True, timeout=120)

    ending = read_ending(tmp_path)
    assert ending is not None
    assert ending.result is not None
    assert expected is not None
    one, two = (load(place.store.get(str(result["encoder_key"]))) for result in (expected, ending.result))
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)
    assert ending.result["final_loss"] == pytest.approx(expected["final_loss"], abs=1e-5)


SMALL_CROPS = (
    {"size": 32, "count": 1, "blur": 0.2, "solarise": 0.2},
    {"size": 16, "count": 2, "scale": (0.05, 0.25), "blur": 0.5},
)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_multi_crop_training_killed_at_a_random_step_ends_as_an_undisturbed_one(
    place: Place, database: Database, tmp_path: Path, ranks: int, capfd: pytest.CaptureFixture[str]
) -> None:
    fields = {
        "recipe": "imagenet-sd",
        "crops": SMALL_CROPS,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "warmup_steps": 5,
    }
    request = tiny_request(architecture="test_resnet", steps=60, checkpoint_steps=7, **fields)
    expected = add_training(database, request)
    finish_in(tmp_path, database, ranks)
    row = add_training(database, request)
    lease = claim(database)
    killed = subprocess.Popen(
        launcher_command(ranks, [lease.job_id, str(lease.fence), str(tmp_path)]), start_new_session=True
    )
    wait_for(lambda: read_job(database, row).checkpoint is not None)
    time.sleep(random.Random(ranks).uniform(0, 1))
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert read_ending(tmp_path) is None
    with database.write() as session:
        session.execute(update(Job).where(Job.id == row).values(state="queued", lease_owner=None, lease_until=None))
    committed = (read_job(database, row).checkpoint or {})["step"]
    capfd.readouterr()

    finish_in(tmp_path, database, ranks)

    assert f"from_step={committed} " in capfd.readouterr().err

    one, two = (
        load(place.store.get(str((read_job(database, each).result or {})["encoder_key"]))) for each in (expected, row)
    )
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def finish_in(folder: Path, database: Database, ranks: int) -> None:
    lease = claim(database)
    subprocess.run(launcher_command(ranks, [lease.job_id, str(lease.fence), str(folder)]), check=True, timeout=120)
    ending = read_ending(folder)
    assert ending is not None
    assert ending.result is not None
    with database.write() as session:
        finish_job(session, lease, ending.result)
    (folder / "ending.json").unlink()
