import pytest
from sqlalchemy import select

from services.dispatcher.finish import ended_datasets
from services.dispatcher.plan import rest_unwanted
from shared import leases
from shared.database import Database
from shared.errors import LostLease
from shared.tables import Event, Job, Shard, Team
from tests.rows import add_team, claim, commit, end, job_of, planned_dataset, stored


def drawn(database: Database, job_id: str) -> str:
    """The key of the only shard's object."""
    lease = claim(database)[0]
    commit(database, lease)
    return lease.object_key


def report(database: Database, object_key: str) -> bool:
    with database.write() as session:
        return leases.report_damage(session, object_key=object_key, reason="the bucket has no such object")


def shard_of(database: Database) -> Shard:
    with database.read() as session:
        return session.scalars(select(Shard)).one()


def events(database: Database, job_id: str, kind: str) -> list[object]:
    with database.read() as session:
        return [row.payload for row in session.scalars(select(Event).where(Event.job_id == job_id, Event.type == kind))]


def test_a_damaged_object_is_reported_once_and_its_shard_waits_to_be_drawn(database: Database) -> None:
    key = drawn(database, planned_dataset(database, {"a": 10}))
    assert [report(database, key), report(database, key)] == [True, False]
    shard = shard_of(database)
    assert (shard.state, shard.attempts, shard.damage) == ("pending", 0, "the bucket has no such object")


def test_an_object_no_shard_has_is_not_damaged(database: Database) -> None:
    drawn(database, planned_dataset(database, {"a": 10}))
    assert not report(database, "images/other.tar")
    assert shard_of(database).state == "done"


def test_progress_of_a_live_dataset_stays_and_the_new_object_does_not_count_again(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 10, "b": 10})
    key = drawn(database, job_id)
    report(database, key)
    assert job_of(database, job_id).done == 10
    assert events(database, job_id, "damaged") == [
        {"object_key": key, "reason": "the bucket has no such object", "lost": False}
    ]
    redrawn = claim(database)[0]
    commit(database, redrawn)
    job = job_of(database, job_id)
    assert (job.done, job.drawn_images, redrawn.object_key != key) == (10, 10, True)


def test_a_shard_of_an_ended_dataset_is_drawn_again_at_its_teams_cost_and_leaves_its_state(database: Database) -> None:
    with database.write() as session:
        add_team(session, "b")
    job_id = planned_dataset(database, {"a": 10}, team="b")
    key = drawn(database, job_id)
    end(database, job_id, "succeeded")
    report(database, key)
    with database.write() as session:
        rest_unwanted(session)
    lease = claim(database)[0]
    with database.write() as session:
        assert leases.extend(session, [lease], lease_seconds=60) == {lease.shard_id}
        assert session.get_one(Team, "b").served_until == 20
    assert job_of(database, job_id).state == "succeeded"


def test_an_ended_datasets_manifest_is_stale_once_its_shard_was_drawn_again(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 10})
    key = drawn(database, job_id)
    with database.write() as session:
        session.get_one(Job, job_id).result = {"images": 10}
    end(database, job_id, "succeeded")
    report(database, key)
    assert not job_of(database, job_id).is_manifest_stale
    commit(database, claim(database)[0])
    assert (job_of(database, job_id).is_manifest_stale, shard_of(database).damage) == (True, None)


def test_a_dataset_that_never_counted_the_shard_is_not_touched_by_its_damage(database: Database) -> None:
    cancelled = planned_dataset(database, {"a": 10})
    lease = claim(database)[0]
    end(database, cancelled, "cancelled")
    commit(database, lease)
    report(database, lease.object_key)
    assert claim(database) == []
    with database.write() as session:
        rest_unwanted(session)
    assert shard_of(database).state == "dormant"


def test_a_manifest_without_the_shard_is_not_stale_after_its_redraw(database: Database) -> None:
    cancelled = planned_dataset(database, {"a": 10})
    lease = claim(database)[0]
    with database.write() as session:
        session.get_one(Job, cancelled).result = {"images": 0}
    end(database, cancelled, "cancelled")
    commit(database, lease)
    planned_dataset(database, {"a": 10})
    report(database, lease.object_key)
    commit(database, claim(database)[0])
    assert not job_of(database, cancelled).is_manifest_stale


def test_a_redraw_changes_the_version_of_a_dataset_whose_manifest_may_be_under_way(database: Database) -> None:
    cancelled = planned_dataset(database, {"a": 10})
    key = drawn(database, cancelled)
    planned_dataset(database, {"a": 10})
    report(database, key)
    with database.write() as session:
        session.get_one(Job, cancelled).cancel_requested = True
    lease = claim(database)[0]
    seen = job_of(database, cancelled).version
    commit(database, lease)
    assert job_of(database, cancelled).version > seen


def test_a_complete_dataset_does_not_end_while_a_shard_of_it_is_drawn_again(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 10})
    key = drawn(database, job_id)
    report(database, key)
    with database.read() as session:
        assert ended_datasets(session) == []
    commit(database, claim(database)[0])
    with database.read() as session:
        assert [job.id for job in ended_datasets(session)] == [job_id]


def test_a_redraw_that_fails_for_good_moves_a_live_datasets_images_to_failed(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 10})
    report(database, drawn(database, job_id))
    lease = claim(database)[0]
    with database.write() as session:
        leases.give_up(session, lease, reason="broken", max_attempts=1)
    job = job_of(database, job_id)
    assert (job.done, job.failed) == (0, 10)


def test_a_redraw_that_fails_for_good_tells_an_ended_dataset(database: Database) -> None:
    job_id = planned_dataset(database, {"a": 10})
    key = drawn(database, job_id)
    end(database, job_id, "succeeded")
    report(database, key)
    lease = claim(database)[0]
    with database.write() as session:
        leases.give_up(session, lease, reason="broken", max_attempts=1)
    job = job_of(database, job_id)
    assert (job.state, job.done, job.failed) == ("succeeded", 10, 0)
    assert [event["lost"] for event in events(database, job_id, "damaged")] == [True]  # type: ignore[index]


def test_a_finished_shard_keeps_its_object_whoever_commits(database: Database) -> None:
    planned_dataset(database, {"a": 10})
    first = claim(database)[0]
    commit(database, first)
    zombie = first._replace(fence=first.fence - 1)
    with database.write() as session, pytest.raises(LostLease):
        leases.commit(session, zombie, stored(zombie))
    assert shard_of(database).object_key == first.object_key
