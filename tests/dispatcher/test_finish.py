import hashlib
import json
from pathlib import Path

from sqlalchemy import select

from services.dispatcher.tick import tick
from shared import leases, lifecycle
from shared.database import Database
from shared.not_finite import note_not_finite
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import Event, Job
from tests.rows import add_dataset, claim, commit, job_of, state_of, stored


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


def test_a_dataset_that_is_short_tells_where_an_image_was_not_finite(database: Database, tmp_path: Path) -> None:
    told, other = dataset(database, a=10), dataset(database, b=10)
    ticked(database, tmp_path)
    leased = {lease.class_id: lease for lease in (*claim(database), *claim(database))}
    with database.write() as session:
        note_not_finite(session, leased["a"].shard_id, prompt="a", seed=1, detail="unet.conv_in overflows")
        for lease in leased.values():
            leases.commit(session, lease, stored(lease, short=(2,)))
    ticked(database, tmp_path)
    with database.read() as session:
        details = [str((session.get_one(Job, job_id).error or {})["detail"]) for job_id in (told, other)]
    assert details[0].endswith("the gate rejected every attempt; of one that is not finite: unet.conv_in overflows")
    assert details[1].endswith("the gate rejected every attempt")


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


def manifest_of(database: Database, store: LocalStore, job_id: str) -> dict[str, object]:
    result = job_of(database, job_id).result
    assert result is not None
    data = store.get(str(result["manifest_key"]))
    assert hashlib.sha256(data).hexdigest() == result["manifest_sha256"]
    manifest: dict[str, object] = json.loads(data)
    return manifest


def keys_in(manifest: dict[str, object]) -> list[str]:
    shards = manifest["shards"]
    assert isinstance(shards, list)
    return [shard["key"] for shard in shards]


def damage(database: Database, key: str) -> None:
    with database.write() as session:
        assert leases.report_damage(session, object_key=key, reason="one byte differs")


def test_the_manifest_of_an_ended_dataset_names_the_redrawn_object(database: Database, tmp_path: Path) -> None:
    job_id = dataset(database, a=150, b=20)
    ticked(database, tmp_path)
    draw_all(database)
    before = keys_in(manifest_of(database, ticked(database, tmp_path), job_id))
    damage(database, before[1])
    assert keys_in(manifest_of(database, ticked(database, tmp_path), job_id)) == before
    redrawn = claim(database)[0]
    commit(database, redrawn)
    after = keys_in(manifest_of(database, ticked(database, tmp_path), job_id))
    assert after == [before[0], redrawn.object_key, before[2]]
    job = job_of(database, job_id)
    assert (job.state, job.done, job.is_manifest_stale) == ("succeeded", 170, False)


def test_a_repair_leaves_an_event_and_waits_for_all_redraws(database: Database, tmp_path: Path) -> None:
    job_id = dataset(database, a=10, b=10)
    ticked(database, tmp_path)
    draw_all(database)
    for key in keys_in(manifest_of(database, ticked(database, tmp_path), job_id)):
        damage(database, key)
    repaired = select(Event.payload).where(Event.type == "repaired")
    for expected in (0, 1):
        commit(database, claim(database)[0])
        ticked(database, tmp_path)
        with database.read() as session:
            assert len(session.scalars(repaired).all()) == expected


def test_a_manifest_holds_no_shard_that_the_dataset_did_not_count(database: Database, tmp_path: Path) -> None:
    job_id = dataset(database, a=128, b=128)
    ticked(database, tmp_path)
    first, second = claim(database, limit=2)
    commit(database, first)
    with database.write() as session:
        lifecycle.request_cancel(session, session.get_one(Job, job_id))
    ticked(database, tmp_path)
    commit(database, second)
    damage(database, first.object_key)
    commit(database, claim(database)[0])
    keys = keys_in(manifest_of(database, ticked(database, tmp_path), job_id))
    assert keys == [first.object_key.replace("-1.tar", "-2.tar")]
