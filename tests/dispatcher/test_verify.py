from pathlib import Path

import pytest
from sqlalchemy import select

from services.dispatcher.tick import tick
from services.dispatcher.verify import TURN, verify
from shared import leases
from shared.database import Database, database_now
from shared.settings import Settings
from shared.storage import LocalStore, get_verified
from shared.tables import Event, Job, JsonObject, Shard
from tests.drawing import draw_pending, store_shard
from tests.rows import add_dataset, claim

CLASSES = ("n00000001", "n00000002", "n00000003")
SLOTS = 8


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def ticked(database: Database, store: LocalStore) -> None:
    tick(database, store, Settings(shard_slots=SLOTS), absent={})


def drawn(database: Database, store: LocalStore, *, per_class: int = SLOTS) -> str:
    """A dataset that succeeded: its shards are stored and its manifest written."""
    with database.write() as session:
        job_id = add_dataset(session, images=dict.fromkeys(CLASSES, per_class)).id
    ticked(database, store)
    while draw_pending(database, store):
        ticked(database, store)
    ticked(database, store)
    assert job(database, job_id).state == "succeeded"
    return job_id


def job(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return session.get_one(Job, job_id)


def shards(database: Database) -> list[Shard]:
    with database.read() as session:
        return list(session.scalars(select(Shard).order_by(Shard.id)))


def ask(database: Database, job_id: str) -> None:
    with database.write() as session:
        session.get_one(Job, job_id).verify_asked_at = database_now(session)


def verified(database: Database, store: LocalStore, job_id: str) -> JsonObject:
    """What the verification found, as its event says."""
    ask(database, job_id)
    list(verify(database, store))
    return found(database, job_id)


def found(database: Database, job_id: str) -> JsonObject:
    of_job = select(Event).where(Event.job_id == job_id, Event.type == "verified").order_by(Event.seq.desc())
    with database.read() as session:
        return session.scalars(of_job).all()[0].payload


def flip_a_byte(store: LocalStore, key: str) -> None:
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    store.path(key).write_bytes(data)


def cut_off(store: LocalStore, key: str) -> None:
    store.path(key).write_bytes(store.get(key)[:-512])


def remove(store: LocalStore, key: str) -> None:
    store.delete(key)


def manifest_is_sound(database: Database, store: LocalStore, job_id: str) -> bool:
    result = job(database, job_id).result or {}
    manifest = get_verified(store, str(result["manifest_key"]), str(result["manifest_sha256"]))
    return all(f'"{shard.object_key}"'.encode() in manifest for shard in shards(database))


def test_a_sound_dataset_has_no_damage(database: Database, store: LocalStore) -> None:
    job_id = drawn(database, store)
    assert verified(database, store, job_id) == {"objects": 4, "damaged": 0}
    assert job(database, job_id).verify_asked_at is None


@pytest.mark.parametrize("harm", [flip_a_byte, cut_off, remove])
def test_a_damaged_object_is_found_drawn_again_and_named_in_a_new_manifest(
    database: Database, store: LocalStore, harm: object
) -> None:
    job_id = drawn(database, store)
    whole = store.get(str(shards(database)[1].object_key))
    assert callable(harm)
    harm(store, str(shards(database)[1].object_key))
    assert verified(database, store, job_id) == {"objects": 4, "damaged": 1}
    assert [shard.state for shard in shards(database)] == ["done", "pending", "done"]
    assert draw_pending(database, store) == 1
    ticked(database, store)
    assert store.get(str(shards(database)[1].object_key)) == whole
    assert manifest_is_sound(database, store, job_id)
    assert verified(database, store, job_id) == {"objects": 4, "damaged": 0}
    assert (job(database, job_id).state, job(database, job_id).done) == ("succeeded", 3 * SLOTS)


@pytest.mark.parametrize("harm", [flip_a_byte, remove])
def test_a_damaged_manifest_is_found_and_written_again(database: Database, store: LocalStore, harm: object) -> None:
    job_id = drawn(database, store)
    assert callable(harm)
    harm(store, str((job(database, job_id).result or {})["manifest_key"]))
    assert verified(database, store, job_id) == {"objects": 4, "damaged": 1}
    ticked(database, store)
    assert manifest_is_sound(database, store, job_id)
    assert verified(database, store, job_id) == {"objects": 4, "damaged": 0}


def test_another_process_goes_on_where_a_verification_was_cut_off(database: Database, store: LocalStore) -> None:
    job_id = drawn(database, store)
    ask(database, job_id)
    steps = verify(database, store)
    next(steps), next(steps)
    steps.close()
    remove(store, str(shards(database)[0].object_key))  # it was read before
    list(verify(database, store))
    assert found(database, job_id) == {"objects": 4, "damaged": 0}


def test_datasets_take_turns(database: Database, store: LocalStore) -> None:
    large = drawn(database, store, per_class=TURN * SLOTS)
    small = drawn(database, store, per_class=SLOTS)
    ask(database, large)
    ask(database, small)
    steps = verify(database, store)
    for _ in range(2 * TURN):
        next(steps)
    assert found(database, small) == {"objects": 4, "damaged": 0}
    assert job(database, large).verify_asked_at is not None


def test_a_shard_drawn_again_while_the_others_are_read_is_counted_once(database: Database, store: LocalStore) -> None:
    job_id = drawn(database, store)
    remove(store, str(shards(database)[0].object_key))
    ask(database, job_id)
    steps = verify(database, store)
    next(steps)
    draw_pending(database, store)
    list(steps)
    assert found(database, job_id)["damaged"] == 1


def test_what_is_drawn_after_the_question_is_not_read(database: Database, store: LocalStore) -> None:
    with database.write() as session:
        job_id = add_dataset(session, images=dict.fromkeys(CLASSES, SLOTS)).id
    ticked(database, store)
    lease = claim(database)[0]
    with database.write() as session:
        leases.commit(session, lease, store_shard(store, lease))
    ask(database, job_id)
    draw_pending(database, store)
    list(verify(database, store))
    assert found(database, job_id) == {"objects": 1, "damaged": 0}
