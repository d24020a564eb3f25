import hashlib
import json
from pathlib import Path

from services.dispatcher.tick import tick
from shared import leases, lifecycle
from shared.database import Database
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import Job
from tests.rows import add_dataset, claim, state_of, stored


def ticked(database: Database, folder: Path) -> LocalStore:
    store = LocalStore(folder)
    tick(database, store, Settings(), absent={})
    return store


def dataset(database: Database, **images: int) -> str:
    with database.write() as session:
        return add_dataset(session, images=images).id


def draw_all(database: Database, *, short: tuple[int, ...] = ()) -> None:
    while claimed := claim(database):
        with database.write() as session:
            leases.commit(session, claimed[0], stored(claimed[0], short=short))


def test_a_complete_dataset_succeeds_with_a_hashed_manifest(database: Database, tmp_path: Path) -> None:
    job_id = dataset(database, a=150, b=20)
    ticked(database, tmp_path)
    draw_all(database)
    store = ticked(database, tmp_path)
    with database.read() as session:
        job = session.get_one(Job, job_id)
    assert job.state == "succeeded"
    assert job.result is not None
    data = store.get(str(job.result["manifest_key"]))
    assert hashlib.sha256(data).hexdigest() == job.result["manifest_sha256"]
    manifest = json.loads(data)
    assert [(entry["id"], entry["label"], entry["images"]) for entry in manifest["classes"]] == [
        ("a", 0, 150),
        ("b", 1, 20),
    ]
    assert [(s["label"], s["start"], s["take"], s["accepted"]) for s in manifest["shards"]] == [
        (0, 0, 128, 128),
        (0, 128, 22, 22),
        (1, 0, 20, 20),
    ]


def test_a_class_that_is_short_makes_the_dataset_partial_and_is_named(database: Database, tmp_path: Path) -> None:
    job_id = dataset(database, a=10)
    ticked(database, tmp_path)
    draw_all(database, short=(2, 3))
    ticked(database, tmp_path)
    with database.read() as session:
        job = session.get_one(Job, job_id)
    assert job.state == "partial"
    assert job.error is not None
    assert job.error["detail"] == "2 of 10 images are missing: a 2; the gate rejected every attempt"


def test_a_cancelled_dataset_keeps_what_was_accepted(database: Database, tmp_path: Path) -> None:
    job_id = dataset(database, a=128, b=128)
    ticked(database, tmp_path)
    lease = claim(database)[0]
    with database.write() as session:
        leases.commit(session, lease, stored(lease))
        lifecycle.request_cancel(session, session.get_one(Job, job_id))
    ticked(database, tmp_path)
    with database.read() as session:
        job = session.get_one(Job, job_id)
    assert (job.state, job.done) == ("cancelled", 128)
    assert job.result is not None
    assert job.result["images"] == 128


def test_a_late_shard_of_a_cancelled_dataset_does_not_change_its_counts(database: Database, tmp_path: Path) -> None:
    job_id = dataset(database, a=128)
    ticked(database, tmp_path)
    lease = claim(database)[0]
    with database.write() as session:
        lifecycle.request_cancel(session, session.get_one(Job, job_id))
    ticked(database, tmp_path)
    with database.write() as session:
        leases.commit(session, lease, stored(lease))
    with database.read() as session:
        assert session.get_one(Job, job_id).done == 0
    assert state_of(database, job_id) == "cancelled"
