"""The fault suite's own eyes: what it must not miss."""

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from services.dispatcher.finish import ended_datasets, finish_dataset
from shared import leases
from shared.database import Database
from shared.leases import StoredShard
from shared.schema import create_default_team, upgrade
from shared.shards import Sample, pack
from shared.storage import LocalStore
from shared.tables import DatasetClass, Job
from tests.rows import add_dataset, claim, plan_all

from . import audit
from .audit import Change, violation
from .checker import check, stray_objects, unacknowledged
from .client import Sight, backward
from .cluster import Held
from .proxy import SLOW_DOWN, Cut, Hold, Link, Proxy
from .run import recovery, unrecovered
from .scene import Blow

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CLAIM = Change(NOON, 7, "pending", "leased", 1, 2, "w", None, None, None)
COMMIT = Change(NOON + timedelta(seconds=3), 7, "leased", "done", 2, 2, None, None, "images/r/c/0-8-2.tar", None)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path}/rows.db")
    upgrade(database)
    create_default_team(database)
    audit.install(database)
    return database


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


@pytest.fixture
def dataset(database: Database, store: LocalStore) -> str:
    """A finished dataset of one shard with four images."""
    return finished(database, store, {"n00000001": 4})


def finished(database: Database, store: LocalStore, images: dict[str, int]) -> str:
    """A finished dataset with one shard for each class."""
    with database.write() as session:
        job_id = add_dataset(session, images=images).id
    plan_all(database, job_id)
    for lease in claim(database, limit=len(images)):
        slots = range(lease.start_slot, lease.stop_slot)
        data = pack([Sample(f"{lease.class_id}_{slot:08d}", slot, b"jpeg", 1, {}) for slot in slots])
        store.put(lease.object_key, data)
        stored = StoredShard(lease.object_key, len(data), hashlib.sha256(data).hexdigest(), len(slots), (), {})
        with database.write() as session:
            leases.commit(session, lease, stored)
    with database.read() as session:
        (job,) = ended_datasets(session)
    finish_dataset(database, store, job)
    return job_id


def problems(database: Database, store: LocalStore, job_id: str) -> tuple[int, int, list[str]]:
    with database.read() as session:
        found = check(session, store, job_id, state="succeeded", sights=[])
    return found.lost, found.duplicated, found.problems


def test_a_whole_dataset_has_no_problem(database: Database, store: LocalStore, dataset: str) -> None:
    assert problems(database, store, dataset) == (0, 0, [])


def test_a_missing_object_is_four_lost_images(database: Database, store: LocalStore, dataset: str) -> None:
    (key,) = store.root.rglob("*.tar")
    key.unlink()
    lost, duplicated, found = problems(database, store, dataset)
    assert (lost, duplicated) == (4, 4)  # counted, and not there
    assert "no object" in found[0]


def test_one_flipped_byte_is_seen(database: Database, store: LocalStore, dataset: str) -> None:
    (file,) = store.root.rglob("*.tar")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "differs from the manifest" in problems(database, store, dataset)[2][0]


def test_a_class_with_too_many_images_does_not_make_up_for_one_with_too_few(
    database: Database, store: LocalStore
) -> None:
    job_id = finished(database, store, {"n00000001": 16, "n00000002": 8})
    with database.write() as session:
        session.execute(update(DatasetClass).values(total=24 - DatasetClass.total))
    lost, duplicated, found = problems(database, store, job_id)
    assert (lost, duplicated) == (8, 0)
    assert "class n00000001 has 16 images, 8 were asked for" in found
    assert "class n00000002 has 8 images, 16 were asked for" in found


def rewrite(database: Database, store: LocalStore, job_id: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """As a dispatcher would have written it: under its sha256."""
    with database.write() as session:
        job = session.get_one(Job, job_id)
        key = str((job.result or {})["manifest_key"])
        content = json.loads(store.get(key))
        change(content["shards"])
        data = json.dumps(content).encode()
        store.put(key, data)
        job.result = {"manifest_key": key, "manifest_sha256": hashlib.sha256(data).hexdigest()}


def test_an_entry_that_stands_twice_is_duplicated_and_nothing_is_lost(
    database: Database, store: LocalStore, dataset: str
) -> None:
    rewrite(database, store, dataset, lambda shards: shards.append(shards[0]))
    assert problems(database, store, dataset)[:2] == (0, 4)


def test_images_before_the_start_of_their_entry_do_not_count(
    database: Database, store: LocalStore, dataset: str
) -> None:
    rewrite(database, store, dataset, lambda shards: shards[0].update(start=2))
    lost, _, found = problems(database, store, dataset)
    assert (lost, "holds 2 images, the manifest says 4" in found[0]) == (2, True)


def test_counters_that_differ_from_a_recount_are_seen(database: Database, store: LocalStore, dataset: str) -> None:
    with database.write() as session:
        session.execute(update(DatasetClass).values(done=3))
        session.execute(update(Job).values(done=3))
    assert problems(database, store, dataset)[2] == [
        "class n00000001 counts 3 images, its shards hold 4",
        f"{dataset} counts 3 images, its shards hold 4",
    ]


def test_a_job_that_was_accepted_and_is_gone_or_goes_on_is_seen(database: Database, dataset: str) -> None:
    with database.write() as session:
        waiting = add_dataset(session, images={"n00000002": 4}).id
    with database.read() as session:
        found = unacknowledged(session, [dataset, "ds-gone", waiting])
    assert found == ["ds-gone is gone", f"{waiting} is queued"]


def test_an_object_that_no_row_names_is_a_stray(database: Database, store: LocalStore, dataset: str) -> None:
    store.put("images/r/c/00000000-00000008-9.tar", b"late")
    with database.read() as session:
        assert stray_objects(session, store) == ["images/r/c/00000000-00000008-9.tar"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (COMMIT, None),
        (COMMIT._replace(was="pending"), "shard 7 went from pending to done"),
        (COMMIT._replace(fence=3), "shard 7 holds images/r/c/0-8-2.tar at fence 3"),
        (COMMIT._replace(was="done", state="done"), "finished shard 7 became done with images/r/c/0-8-2.tar"),
        (COMMIT._replace(was="done", state="pending", damage="gone"), None),
    ],
)
def test_only_the_holder_of_the_fence_may_commit(change: Change, problem: str | None) -> None:
    found = violation(change)
    assert found is None if problem is None else str(found).startswith(problem)


def test_counts_and_states_that_go_back_are_seen() -> None:
    sights = [Sight("queued", 0), Sight("running", 8), Sight("running", 0), Sight("queued", 8)]
    assert len(backward(sights)) == 2


def test_recovery_lasts_until_each_claim_that_was_hit_is_claimed_anew() -> None:
    blow = Blow(NOON - timedelta(seconds=5), (Held(7, 1),))
    assert recovery(blow, [CLAIM, COMMIT]) == 5.0
    assert recovery(Blow(NOON), [CLAIM, COMMIT]) == 3.0


def test_a_fault_after_which_nothing_was_committed_shows_nothing() -> None:
    assert unrecovered([Blow(NOON)], [CLAIM, COMMIT]) == []
    assert unrecovered([Blow(NOON + timedelta(seconds=4))], [CLAIM, COMMIT]) == [
        "nothing was committed after the last blow"
    ]


def test_a_claim_that_was_hit_and_never_settled_is_seen() -> None:
    blow = Blow(NOON, (Held(7, 2), Held(8, 1)))
    assert unrecovered([blow], [CLAIM, COMMIT]) == [
        "shard 8 was held at fence 1, and neither committed nor claimed again"
    ]


@pytest.fixture
def echo() -> Iterator[Proxy]:
    """A proxy before a server that sends everything back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(ConnectionResetError):
                while data := client.recv(100):
                    client.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    proxy = Proxy(int(listener.getsockname()[1]))
    yield proxy
    proxy.close()
    listener.close()


def ask(proxy: Proxy, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.5) as client:
        client.sendall(data)
        return client.recv(1000)


def test_a_good_link_passes_bytes_on(echo: Proxy) -> None:
    assert ask(echo, b"hello") == b"hello"


def test_a_silent_link_says_nothing(echo: Proxy) -> None:
    echo.link = Link(is_silent=True)
    with pytest.raises(TimeoutError):
        ask(echo, b"hello")


def test_a_reset_link_resets(echo: Proxy) -> None:
    echo.link = Link(is_reset=True)
    with pytest.raises(ConnectionResetError):
        ask(echo, b"hello")


def test_a_link_that_answers_for_its_server(echo: Proxy) -> None:
    echo.link = Link(answer=SLOW_DOWN)
    assert ask(echo, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 503 ")


def test_the_answer_to_a_held_marker_never_comes(echo: Proxy) -> None:
    echo.hold = Hold(b"COMMIT")
    with pytest.raises(TimeoutError):
        ask(echo, b"COMMIT")
    assert echo.hold.struck.is_set()
    assert ask(echo, b"COMMIT") == b"COMMIT"


def test_every_second_marker_cuts_the_connection(echo: Proxy) -> None:
    echo.cut = Cut(b"COMMIT", every=2, is_delivered=False)
    assert ask(echo, b"COMMIT") == b"COMMIT"
    with pytest.raises(ConnectionResetError):
        ask(echo, b"COMMIT")
    assert echo.cut.hits == 1
