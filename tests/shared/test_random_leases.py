"""Random interleavings of everything that happens to shards, with the books checked after every step."""

import random
from collections.abc import Callable

import pytest
from sqlalchemy import func, select, update

from services.dispatcher.finish import ended_datasets, stale_datasets
from services.dispatcher.plan import plan_job, rest_unwanted
from shared import leases, lifecycle
from shared.database import Database
from shared.errors import LostLease
from shared.leases import ShardLease
from shared.tables import ACTIVE, TERMINAL, DatasetClass, DatasetShard, Job, Shard
from tests.rows import add_dataset, add_team, claim, stored

STEPS = 120
MAX_ATTEMPTS = 3
SLOTS = 8


def short_of(lease: ShardLease) -> tuple[int, ...]:
    """The same for every drawing of the shard, as with a real recipe."""
    return (lease.start_slot,) if lease.shard_id % 5 == 0 else ()


class Crowd:
    """Workers, users and a dispatcher that do one random thing at a time."""

    def __init__(self, database: Database, seed: int) -> None:
        self.database = database
        self.random = random.Random(seed)
        self.held: list[ShardLease] = []
        self.spent: list[ShardLease] = []
        self.keys: dict[int, str] = {}
        self.ended: dict[str, tuple[str, int, int]] = {}
        self.damaged: set[int] = set()
        with database.write() as session:
            for team in ("b", "c"):
                add_team(session, team, weight=2)
            for team, images in (("default", {"x": 30, "y": 20}), ("b", {"x": 17}), ("c", {"y": 40, "z": 9})):
                add_dataset(session, images=images, team=team)

    def steps(self) -> list[Callable[[], None]]:
        often = [self.claim, self.commit, self.plan]
        seldom = [self.release, self.fail, self.lose, self.damage, self.commit_again, self.extend, self.finish]
        return often * 4 + seldom * 2 + [self.cancel, self.ask_again]

    def step(self) -> None:
        self.random.choice(self.steps())()

    def claim(self) -> None:
        self.held += claim(self.database, limit=self.random.randint(1, 3))

    def take(self) -> ShardLease | None:
        if not self.held:
            return None
        lease = self.held.pop(self.random.randrange(len(self.held)))
        self.spent.append(lease)
        return lease

    def commit(self) -> None:
        if lease := self.take():
            with self.database.write() as session:
                leases.commit(session, lease, stored(lease, short=short_of(lease))._replace(seconds=1.0))

    def commit_again(self) -> None:
        """After an ambiguous COMMIT, or as a zombie."""
        if self.spent:
            lease = self.random.choice(self.spent)
            with self.database.write() as session:
                shard = session.get_one(Shard, lease.shard_id)
                is_mine = shard.object_key == lease.object_key
                try:
                    leases.commit(session, lease, stored(lease, short=short_of(lease)))
                except LostLease:
                    assert not is_mine
                else:
                    assert is_mine

    def release(self) -> None:
        if lease := self.take():
            with self.database.write() as session:
                leases.release(session, [lease])

    def fail(self) -> None:
        if lease := self.take():
            with self.database.write() as session:
                leases.give_up(session, lease, reason="broken", max_attempts=MAX_ATTEMPTS)

    def lose(self) -> None:
        if lease := self.take():
            with self.database.write() as session:
                long_ago = session.scalar(select(func.min(Job.created_at)))
                session.execute(update(Shard).where(Shard.id == lease.shard_id).values(lease_until=long_ago))
                leases.expire(session, max_attempts=MAX_ATTEMPTS)

    def extend(self) -> None:
        with self.database.write() as session:
            kept = leases.extend(session, self.held, lease_seconds=60)
            unwanted = [lease for lease in self.held if lease.shard_id not in kept]
            leases.release(session, unwanted)
        self.spent += unwanted
        self.held = [lease for lease in self.held if lease.shard_id in kept]

    def damage(self) -> None:
        with self.database.write() as session:
            done = session.scalars(select(Shard).where(Shard.state == "done").order_by(Shard.id)).all()
            if done:
                shard = self.random.choice(done)
                self.damaged.add(shard.id)
                assert leases.report_damage(session, object_key=str(shard.object_key), reason="gone")

    def plan(self) -> None:
        with self.database.read() as session:
            job_ids = session.scalars(select(Job.id).where(Job.state.in_(ACTIVE), ~Job.cancel_requested)).all()
        for job_id in job_ids:
            with self.database.write() as session:
                plan_job(session, session.get_one(Job, job_id), shard_slots=SLOTS, window=self.random.randint(1, 4))
        with self.database.write() as session:
            rest_unwanted(session)

    def finish(self) -> None:
        with self.database.write() as session:
            for job in ended_datasets(session):
                state = "cancelled" if job.cancel_requested else "succeeded" if job.done == job.total else "partial"
                job.result = {"images": job.done}
                session.flush()
                assert lifecycle.transition(session, job.id, state)
                self.ended[job.id] = (state, job.done, job.failed)
            for job in stale_datasets(session):
                job.is_manifest_stale = False

    def cancel(self) -> None:
        with self.database.write() as session:
            live = session.scalars(select(Job).where(Job.state.in_(ACTIVE)).order_by(Job.id)).all()
            if len(live) > 1:
                lifecycle.request_cancel(session, self.random.choice(live))

    def ask_again(self) -> None:
        with self.database.write() as session:
            add_dataset(session, images={"x": self.random.randint(1, 40), "z": 12}, team="b")

    def check(self) -> None:
        self.check_links()
        self.check_sums()
        self.check_keys()

    def check_links(self) -> None:
        query = select(DatasetShard, Shard, Job.state).join(Shard, Shard.id == DatasetShard.shard_id)
        with self.database.read() as session:
            for link, shard, state in session.execute(query.join(Job, Job.id == DatasetShard.job_id)):
                if state in ACTIVE and shard.damage is None:
                    assert (link.counted_done, link.counted_failed) == target(link, shard)

    def check_sums(self) -> None:
        with self.database.read() as session:
            for job in session.scalars(select(Job)):
                in_classes = session.execute(sums(DatasetClass.done, DatasetClass.failed, job.id)).one()
                in_links = session.execute(sums(DatasetShard.counted_done, DatasetShard.counted_failed, job.id)).one()
                assert tuple(in_classes) == tuple(in_links) == (job.done, job.failed)
                assert self.ended.get(job.id, (job.state, job.done, job.failed)) == (job.state, job.done, job.failed)
            drawn = session.scalar(select(func.coalesce(func.sum(Shard.accepted), 0)))
            assert session.scalar(select(func.sum(Job.drawn_images))) == drawn

    def check_keys(self) -> None:
        """I4: a finished row keeps its object, but for a report of damage."""
        with self.database.read() as session:
            done = session.execute(select(Shard.id, Shard.object_key).where(Shard.state == "done")).all()
        for shard_id, key in done:
            if self.keys.get(shard_id, key) != key:
                assert shard_id in self.damaged
                self.damaged.discard(shard_id)
            self.keys[shard_id] = key


def target(link: DatasetShard, shard: Shard) -> tuple[int, int]:
    short = sum(slot < shard.start_slot + link.take for slot in shard.short_slots)
    return {"done": (link.take - short, short), "failed": (0, link.take)}.get(shard.state, (0, 0))


def sums(done, failed, job_id: str):  # type: ignore[no-untyped-def]
    table = done.class_
    zero = func.coalesce
    return select(zero(func.sum(done), 0), zero(func.sum(failed), 0)).where(table.job_id == job_id)


@pytest.mark.parametrize("seed", range(3))
def test_the_books_are_right_after_every_random_step(database: Database, seed: int) -> None:
    crowd = Crowd(database, seed)
    for _ in range(STEPS):
        crowd.step()
        crowd.check()


def test_after_random_steps_every_dataset_still_ends(database: Database) -> None:
    crowd = Crowd(database, seed=11)
    for _ in range(STEPS):
        crowd.step()
    for _ in range(60):
        for step in (crowd.plan, crowd.claim, crowd.commit, crowd.commit, crowd.finish):
            step()
    crowd.check()
    with database.read() as session:
        assert set(session.scalars(select(Job.state))) <= set(TERMINAL)
        assert session.scalars(select(Shard.id).where(Shard.state.in_(("pending", "leased")))).all() == []
        assert session.scalars(select(Job.id).where(Job.is_manifest_stale)).all() == []
