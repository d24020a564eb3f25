from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from services.dispatcher.plan import plan_job, rest_unwanted
from shared import leases
from shared.database import Database
from shared.schema import create_default_team, upgrade
from shared.tables import DatasetClass, DatasetShard, Job, Shard
from tests.conftest import empty
from tests.rows import add_dataset, claim, end, plan_all, stored


def dataset(database: Database, **images: int) -> str:
    with database.write() as session:
        return add_dataset(session, images=images).id


def tiles(database: Database) -> list[tuple[str, int, int]]:
    with database.read() as session:
        rows = session.execute(
            select(Shard.class_key, Shard.start_slot, Shard.stop_slot).order_by(Shard.class_key, Shard.start_slot)
        )
        return [tuple(row) for row in rows]


def takes(database: Database, job_id: str) -> list[int]:
    with database.read() as session:
        return list(
            session.scalars(
                select(DatasetShard.take)
                .join(Shard, Shard.id == DatasetShard.shard_id)
                .where(DatasetShard.job_id == job_id)
                .order_by(Shard.start_slot)
            )
        )


def test_a_window_is_planned_breadth_first(database: Database) -> None:
    job_id = dataset(database, a=300, b=300)
    for window in (2, 3, 4):
        with database.write() as session:
            plan_job(session, session.get_one(Job, job_id), shard_slots=128, window=window)
    spans = [("a-text", 0, 128), ("a-text", 128, 256), ("b-text", 0, 128), ("b-text", 128, 256)]
    assert tiles(database) == spans


def test_a_larger_dataset_continues_where_a_smaller_one_ended(database: Database) -> None:
    plan_all(database, dataset(database, a=32))
    larger = dataset(database, a=200)
    plan_all(database, larger)
    assert tiles(database) == [("a-text", 0, 32), ("a-text", 32, 160), ("a-text", 160, 200)]
    assert takes(database, larger) == [32, 128, 40]


def test_a_smaller_dataset_takes_a_part_of_what_is_there(database: Database) -> None:
    plan_all(database, dataset(database, a=200))
    smaller = dataset(database, a=140)
    plan_all(database, smaller)
    assert takes(database, smaller) == [128, 12]
    assert len(tiles(database)) == 2


def test_what_was_drawn_before_counts_at_once_for_the_new_dataset_only(database: Database) -> None:
    first = dataset(database, a=100)
    plan_all(database, first)
    lease = claim(database)[0]
    with database.write() as session:
        leases.commit(session, lease, stored(lease))
    second = dataset(database, a=150)
    plan_all(database, second)
    with database.read() as session:
        counts = {job_id: session.get_one(Job, job_id) for job_id in (first, second)}
    assert (counts[first].done, counts[first].reused) == (100, 0)
    assert (counts[second].done, counts[second].reused) == (100, 100)


def test_shards_nobody_wants_rest_until_a_dataset_needs_them(database: Database) -> None:
    cancelled = dataset(database, a=10)
    plan_all(database, cancelled)
    end(database, cancelled, "cancelled")
    with database.write() as session:
        rest_unwanted(session)
    assert claim(database) == []
    plan_all(database, dataset(database, a=10))
    assert [lease.stop_slot for lease in claim(database)] == [10]


def test_a_failed_shard_that_another_dataset_revives_counts_once_in_the_first(database: Database) -> None:
    first = dataset(database, a=148)
    plan_all(database, first)
    lease = claim(database)[0]
    with database.write() as session:
        leases.give_up(session, lease, reason="broken", max_attempts=1)
    with database.read() as session:
        assert session.get_one(Job, first).failed == 128
    plan_all(database, dataset(database, a=128))
    revived = claim(database)[0]
    with database.write() as session:
        leases.commit(session, revived, stored(revived))
    with database.read() as session:
        job = session.get_one(Job, first)
    assert (job.done, job.failed) == (128, 0)


@pytest.fixture(scope="module")
def migrated() -> Iterator[Database]:
    """Emptied for each example, since a migration takes longer than the rest of it."""
    database = Database("sqlite://")
    upgrade(database)
    yield database
    database.engine.dispose()


@settings(deadline=None, max_examples=25)
@given(amounts=st.lists(st.integers(1, 700), min_size=1, max_size=5), slots=st.integers(1, 200))
def test_tiles_never_gap_or_overlap_and_each_dataset_takes_what_it_asked(
    migrated: Database, amounts: list[int], slots: int
) -> None:
    database = migrated
    empty(database)
    create_default_team(database)
    jobs = [(dataset(database, a=amount), amount) for amount in amounts]
    for job_id, _ in jobs:
        plan_all(database, job_id, shard_slots=slots, window=7_000)
    spans = [(start, stop) for _, start, stop in tiles(database)]
    assert [start for start, _ in spans] == [0] + [stop for _, stop in spans[:-1]]
    assert spans[-1][1] == max(amounts)
    assert [sum(takes(database, job_id)) for job_id, _ in jobs] == amounts
    with database.read() as session:
        assert all(row.planned == row.total for row in session.scalars(select(DatasetClass)))
