import threading
import time

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from services.dispatcher.plan import rest_unwanted
from shared import leases, lifecycle
from shared.database import Database
from shared.errors import LostLease
from shared.settings import Settings
from shared.tables import DatasetClass, DatasetShard, Event, Job, Shard
from tests.processes import wait_until
from tests.rows import claim, commit, end, job_of, planned_dataset, stored


def test_two_claims_never_return_the_same_shard(database: Database) -> None:
    planned_dataset(database, {"a": 128, "b": 128})
    first, second, third = claim(database), claim(database), claim(database)
    assert {first[0].class_id, second[0].class_id} == {"a", "b"}
    assert third == []


def test_claims_go_over_all_classes_before_the_second_shard_of_any(database: Database) -> None:
    planned_dataset(database, {"a": 256, "b": 256})
    claimed = [claim(database)[0] for _ in range(4)]
    assert [(lease.start_slot, lease.class_id) for lease in claimed] == [(0, "a"), (0, "b"), (128, "a"), (128, "b")]


def test_higher_priority_is_claimed_first(database: Database) -> None:
    planned_dataset(database, {"a": 10})
    planned_dataset(database, {"b": 10}, priority=5)
    assert claim(database)[0].class_id == "b"


def test_models_the_worker_lacks_are_not_claimed(database: Database) -> None:
    planned_dataset(database, {"a": 10})
    with database.write() as session:
        assert leases.claim_shards(session, worker="w", models=["sd14"], limit=1, lease_seconds=9) == []


def test_commit_counts_images_in_class_and_job(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 130})
    lease = claim(database)[0]
    with database.write() as session:
        leases.commit(session, lease, stored(lease, short=(3,)))
    with database.read() as session:
        job = session.get_one(Job, job_id)
        row = session.get_one(DatasetClass, (job_id, 0))
        events = session.scalars(select(Event.payload).where(Event.type == "progress")).all()
    assert (job.done, job.failed, job.rejected) == (127, 1, 1)
    assert (row.done, row.failed, row.rejected) == (127, 1, 1)
    assert events == [{"done": 127, "failed": 1, "total": 130}]


def test_commit_counts_in_every_dataset_that_shares_the_shard_by_what_each_takes(database: Database) -> None:
    larger = planned_dataset(database, {"a": 100})
    smaller = planned_dataset(database, {"a": 30})
    lease = claim(database)[0]
    with database.write() as session:
        leases.commit(session, lease, stored(lease, short=(50,)))
    with database.read() as session:
        done = {job_id: session.get_one(Job, job_id).done for job_id in (larger, smaller)}
    assert done == {larger: 99, smaller: 30}


def test_commit_twice_counts_once(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 10})
    lease = claim(database)[0]
    for _ in range(2):
        with database.write() as session:
            leases.commit(session, lease, stored(lease))
    with database.read() as session:
        assert session.get_one(Job, job_id).done == 10


def test_a_worker_whose_lease_ran_out_is_fenced_out(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 10})
    old = claim(database, lease_seconds=-1)[0]
    with database.write() as session:
        assert leases.expire(session, max_attempts=5) == 1
    new = claim(database)[0]
    with database.write() as session, pytest.raises(LostLease):
        leases.commit(session, old, stored(old))
    with database.read() as session:
        assert session.get_one(Job, job_id).done == 0
    assert new.fence == old.fence + 1
    assert new.object_key != old.object_key


def test_a_shard_lost_too_often_fails_alone(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 10, "b": 10})
    for _ in range(2):
        claim(database, lease_seconds=-1)
        with database.write() as session:
            leases.expire(session, max_attempts=2)
    with database.read() as session:
        states = session.scalars(select(Shard.state).order_by(Shard.id)).all()
        assert session.get_one(Job, job_id).failed == 10
    assert states == ["failed", "pending"]


def test_a_released_shard_keeps_its_attempts(database: Database) -> None:
    planned_dataset(database, {"a": 10})
    lease = claim(database)[0]
    with database.write() as session:
        leases.release(session, [lease])
    with database.read() as session:
        shard = session.get_one(Shard, lease.shard_id)
    assert (shard.state, shard.attempts) == ("pending", 0)


def test_extension_drops_shards_of_a_cancelled_dataset(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 10})
    lease = claim(database)[0]
    with database.write() as session:
        assert leases.extend(session, [lease], lease_seconds=60) == {lease.shard_id}
        session.get_one(Job, job_id).cancel_requested = True
    with database.write() as session:
        assert leases.extend(session, [lease], lease_seconds=60) == set()


def test_concurrent_claims_and_commits_count_every_image_once(database: Database) -> None:
    job_id = planned_dataset(database, {f"class{n}": 256 for n in range(8)})

    def work() -> None:
        while claimed := claim(database, limit=2):
            for lease in claimed:
                with database.write() as session:
                    leases.commit(session, lease, stored(lease))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        assert session.get_one(Job, job_id).done == 8 * 256
        assert set(session.scalars(select(Shard.attempts)).all()) == {1}


def test_commits_within_a_second_leave_one_progress_event_and_the_last_one_always_does(database: Database) -> None:
    planned_dataset(database, {"a": 512})
    for lease in claim(database, limit=4):
        commit(database, lease)
    with database.read() as session:
        events = session.scalars(select(Event.payload).where(Event.type == "progress").order_by(Event.seq)).all()
    assert [event["done"] for event in events] == [128, 512]


def test_a_commit_charges_the_job_it_was_claimed_for_even_when_that_has_ended(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 100})
    lease = claim(database)[0]
    end(database, job_id, "cancelled")
    with database.write() as session:
        leases.commit(session, lease, stored(lease, short=(1,))._replace(seconds=2.5))
    job = job_of(database, job_id)
    assert (job.done, job.drawn_images, job.stored_bytes, job.spent_seconds) == (0, 99, 100, 2.5)


def test_a_commit_repeated_after_an_ambiguous_one_adds_nothing_to_links_classes_or_costs(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 100})
    lease = claim(database)[0]
    for _ in range(3):
        with database.write() as session:
            leases.commit(session, lease, stored(lease, short=(1,))._replace(seconds=2.5))
    with database.read() as session:
        link = session.scalars(select(DatasetShard)).one()
        row = session.get_one(DatasetClass, (job_id, 0))
    assert (link.counted_done, link.counted_failed, row.done, row.failed, row.rejected) == (99, 1, 99, 1, 1)
    assert job_of(database, job_id).spent_seconds == 2.5


def test_what_is_committed_for_a_cancelled_dataset_is_there_for_the_next(database: Database) -> None:
    cancelled = planned_dataset(database, {"a": 100})
    lease = claim(database)[0]
    end(database, cancelled, "cancelled")
    commit(database, lease)
    assert job_of(database, cancelled).done == 0
    later = job_of(database, planned_dataset(database, {"a": 100}))
    assert (later.done, later.reused, later.planned_images) == (100, 100, 0)


def test_a_cancelled_dataset_wants_no_extension_and_its_shard_rests_once_given_back(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 100})
    lease = claim(database)[0]
    with database.write() as session:
        lifecycle.request_cancel(session, session.get_one(Job, job_id))
        assert leases.extend(session, [lease], lease_seconds=60) == set()
        leases.release(session, [lease])
        rest_unwanted(session)
    with database.read() as session:
        assert session.get_one(Shard, lease.shard_id).state == "dormant"


def test_a_job_is_not_ended_between_what_a_commit_counts_in_its_links_and_in_itself(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    job_id = planned_dataset(database, {"a": 100})
    lease = claim(database)[0]
    committer = threading.Thread(target=commit, args=(database, lease))
    ender = threading.Thread(target=cancel_like_the_dispatcher, args=(database, job_id))
    with database.write() as session:
        session.get_one(DatasetClass, (job_id, 0), with_for_update=True)
        for number, thread in enumerate((committer, ender), 1):
            thread.start()
            wait_for_blocked(database, number)
    committer.join()
    ender.join()
    with database.read() as session:
        payloads = session.scalars(select(Event.payload).where(Event.job_id == job_id).order_by(Event.seq)).all()
    assert payloads[-2:] == [{"done": 100, "failed": 0, "total": 100}, {"state": "cancelled"}]


def wait_for_blocked(database: Database, connections: int) -> None:
    """Until so many wait for a lock; gives up after a while, for a wrong program does not wait."""
    here = "datname = current_database() AND wait_event_type = 'Lock'"
    blocked = text(f"SELECT count(*) FROM pg_stat_activity WHERE {here}")
    until = time.monotonic() + 5
    while time.monotonic() < until:
        with database.read() as session:
            if session.scalars(blocked).one() >= connections:
                return
        time.sleep(0.02)


def cancel_like_the_dispatcher(database: Database, job_id: str) -> None:
    with database.write() as session:
        session.get_one(Job, job_id, with_for_update=True)
        lifecycle.transition(session, job_id, "cancelled")


def test_leases_are_extended_while_a_stopped_process_holds_a_lock(database: Database) -> None:
    """A commit that waits for it has locked its own shard's row, so it must give up before its leases run out."""
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    settings = Settings(lease_seconds=5)
    ours = Database(database.engine.url.render_as_string(), lock_seconds=settings.lock_seconds)
    job_id = planned_dataset(database, {"a": 256})
    held = [claim(database)[0] for _ in range(2)]
    refused: list[OperationalError] = []

    def commit_in_vain() -> None:
        try:
            with ours.write() as session:
                leases.commit(session, held[0], stored(held[0]))
        except OperationalError as error:
            refused.append(error)

    def waits_for_lock() -> bool:
        with database.read() as session:
            return bool(session.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")))

    def extended() -> set[int] | None:
        try:
            with ours.write() as session:
                return leases.extend(session, held, lease_seconds=settings.lease_seconds)
        except OperationalError:
            return None  # as the keeper does, which tries again

    with database.write() as stopped:
        stopped.execute(select(Job.id).where(Job.id == job_id).with_for_update())
        waiting = threading.Thread(target=commit_in_vain)
        began = time.monotonic()
        waiting.start()
        wait_until(waits_for_lock, seconds=20, what="a commit that waits")
        found = wait_until(extended, seconds=20, what="extended leases")
        taken = time.monotonic() - began
        waiting.join()
    ours.engine.dispose()
    assert found == {lease.shard_id for lease in held}
    assert taken < settings.lease_seconds  # or the leases would have run out
    assert "lock timeout" in str(refused[0].orig)
