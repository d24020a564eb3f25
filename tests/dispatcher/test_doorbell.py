import time
from datetime import timedelta
from pathlib import Path

from sqlalchemy import update

from services.dispatcher.doorbell import due_rings
from services.dispatcher.tick import tick
from shared.database import Database, database_now
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import Job, Worker
from shared.workers import Presence
from tests.rows import add_dataset, add_job


def rings(database: Database) -> list[str]:
    with database.write() as session:
        return list(due_rings(session, ring_again_seconds=60))


def worker(database: Database, kind: str = "train", *, models: tuple[str, ...] = ()) -> Presence:
    presence = Presence(database, kind, device="cpu", models=models)  # type: ignore[arg-type]
    presence.beat()
    return presence


def test_nothing_rings_while_nothing_is_pending(database: Database) -> None:
    worker(database)
    assert rings(database) == []


def test_each_idle_worker_of_the_kind_is_rung_once(database: Database) -> None:
    with database.write() as session:
        add_job(session, "training")
    worker(database)
    worker(database)
    worker(database, "evaluate")
    assert rings(database) == ["train", "train"]
    assert rings(database) == []


def test_an_experiment_that_can_be_reported_rings_an_evaluator(database: Database) -> None:
    with database.write() as session:
        add_job(session, "experiment")
    worker(database)
    worker(database, "evaluate")
    assert rings(database) == ["evaluate"]


def test_an_unanswered_bell_rings_again(database: Database) -> None:
    with database.write() as session:
        add_job(session, "training")
    worker(database)
    rings(database)
    with database.write() as session:
        session.execute(update(Worker).values(rung_at=database_now(session) - timedelta(seconds=61)))
    assert rings(database) == ["train"]


def test_a_busy_worker_is_left_alone_and_rung_when_idle_again(database: Database) -> None:
    with database.write() as session:
        add_job(session, "training")
    presence = worker(database)
    rings(database)
    presence.set_busy(True)
    assert rings(database) == []
    presence.set_busy(False)
    assert rings(database) == ["train"]


def dataset_of(database: Database, model: str) -> str:
    with database.write() as session:
        return add_dataset(session, images={"a": 10}, model=model).id


def job_after_tick(database: Database, job_id: str, folder: Path, absent: dict[str, float]) -> Job:
    tick(database, LocalStore(folder), Settings(), absent=absent)
    with database.read() as session:
        return session.get_one(Job, job_id)


def long_ago() -> float:
    return time.monotonic() - Settings().missing_model_seconds - 1


def test_a_dataset_no_worker_has_weights_for_fails_with_the_remedy(database: Database, tmp_path: Path) -> None:
    job_id = dataset_of(database, "sd14")
    worker(database, "generate", models=("digits-sd",))
    job = job_after_tick(database, job_id, tmp_path, {"sd14": long_ago()})
    assert job.state == "failed"
    assert job.error is not None
    assert "hf download CompVis/stable-diffusion-v1-4" in str(job.error["detail"])


def test_a_model_whose_worker_restarts_costs_no_job(database: Database, tmp_path: Path) -> None:
    job_id = dataset_of(database, "sd14")
    worker(database, "generate", models=("digits-sd",))
    absent: dict[str, float] = {}
    assert job_after_tick(database, job_id, tmp_path, absent).state == "queued"
    absent["sd14"] = long_ago()
    worker(database, "generate", models=("sd14",))
    assert job_after_tick(database, job_id, tmp_path, absent).state == "queued"
    assert absent == {}


def test_a_dataset_waits_while_no_worker_is_alive_at_all(database: Database, tmp_path: Path) -> None:
    job_id = dataset_of(database, "sd14")
    assert job_after_tick(database, job_id, tmp_path, {"sd14": long_ago()}).state == "queued"
