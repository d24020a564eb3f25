"""Claim, extend, commit and give back shards. A fence number grows with each claim; only its holder can write.

Every function takes an open write transaction, so the caller decides what else happens atomically.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from . import lifecycle
from .database import database_now
from .errors import LostLease
from .tables import ACTIVE, DatasetClass, DatasetShard, Job, JsonObject, Recipe, Shard


class ShardLease(NamedTuple):
    """What a worker needs to draw one shard; `class_text` is the frozen text of its class."""

    shard_id: int
    fence: int
    recipe_digest: str
    class_key: str
    class_id: str
    class_text: JsonObject
    start_slot: int
    stop_slot: int

    @property
    def object_key(self) -> str:
        """Unique to this claim, so an object is never overwritten (design section 5)."""
        span = f"{self.start_slot:08d}-{self.stop_slot:08d}-{self.fence}"
        return f"images/{self.recipe_digest}/{self.class_key}/{span}.tar"


class StoredShard(NamedTuple):
    """A shard object that was verified in the bucket."""

    object_key: str
    size_bytes: int
    sha256: str
    accepted: int
    short_slots: tuple[int, ...]
    rejections: dict[str, int]


def wanted() -> ColumnElement[bool]:
    """A live dataset still needs the shard."""
    return (
        select(DatasetShard.job_id)
        .join(Job, Job.id == DatasetShard.job_id)
        .where(DatasetShard.shard_id == Shard.id, Job.state.in_(ACTIVE), ~Job.cancel_requested)
        .exists()
    )


def fair_jobs(models: Sequence[str]) -> Select[str]:
    """Jobs with pending shards: the team with the fewest leased shards first, then priority, then age."""
    live = and_(Job.state.in_(ACTIVE), ~Job.cancel_requested)
    load = (
        select(Job.team_id, func.count().label("leased"))
        .join(DatasetShard, DatasetShard.job_id == Job.id)
        .join(Shard, Shard.id == DatasetShard.shard_id)
        .where(live, Shard.state == "leased")
        .group_by(Job.team_id)
        .subquery()
    )
    pending = (
        select(DatasetShard.job_id)
        .join(Shard, Shard.id == DatasetShard.shard_id)
        .join(Recipe, Recipe.digest == Shard.recipe_digest)
        .where(Shard.state == "pending", Recipe.model.in_(models))
        .distinct()
    )
    return (
        select(Job.id)
        .outerjoin(load, load.c.team_id == Job.team_id)
        .where(live, Job.kind == "dataset", Job.id.in_(pending))
        .order_by(func.coalesce(load.c.leased, 0), Job.priority.desc(), Job.id)
        .limit(8)
    )


def claim_shards(
    session: Session, *, worker: str, models: Sequence[str], limit: int, lease_seconds: float
) -> list[ShardLease]:
    """Up to `limit` pending shards of one job (so of one recipe), breadth first over its classes."""
    now = database_now(session)
    for job_id in session.scalars(fair_jobs(models)).all():
        rows = session.execute(
            select(Shard, DatasetClass.class_id, DatasetClass.text)
            .join(DatasetShard, DatasetShard.shard_id == Shard.id)
            .join(
                DatasetClass,
                and_(DatasetClass.job_id == DatasetShard.job_id, DatasetClass.position == DatasetShard.position),
            )
            .where(DatasetShard.job_id == job_id, Shard.state == "pending")
            .order_by(Shard.start_slot, DatasetShard.position)
            .limit(limit)
            .with_for_update(of=Shard, skip_locked=True)
        ).all()
        leases = [
            lease_shard(shard, worker, class_id, text, until=now + timedelta(seconds=lease_seconds))
            for shard, class_id, text in rows
        ]
        if leases:
            session.flush()
            lifecycle.transition(session, job_id, "running")
            return leases
    return []


def lease_shard(shard: Shard, worker: str, class_id: str, text: JsonObject, *, until: object) -> ShardLease:
    shard.state, shard.lease_owner, shard.lease_until = "leased", worker, until  # type: ignore[assignment]
    shard.fence += 1
    shard.attempts += 1
    return ShardLease(
        shard.id, shard.fence, shard.recipe_digest, shard.class_key, class_id, text, shard.start_slot, shard.stop_slot
    )


def held(leases: Sequence[ShardLease]) -> ColumnElement[bool]:
    pairs = [and_(Shard.id == lease.shard_id, Shard.fence == lease.fence) for lease in leases]
    return and_(Shard.state == "leased", or_(*pairs))


def extend(session: Session, leases: Sequence[ShardLease], *, lease_seconds: float) -> set[int]:
    """Ids of the shards that are still ours and still wanted; the rest must stop at the next batch."""
    if not leases:
        return set()
    until = database_now(session) + timedelta(seconds=lease_seconds)
    ours = update(Shard).where(held(leases), wanted()).values(lease_until=until).returning(Shard.id)
    return set(session.scalars(ours).all())


def release(session: Session, leases: Sequence[ShardLease]) -> None:
    """Give shards back untouched: the attempt is not counted."""
    if leases:
        session.execute(
            update(Shard)
            .where(held(leases))
            .values(state="pending", lease_owner=None, lease_until=None, attempts=Shard.attempts - 1)
        )


def give_up(session: Session, lease: ShardLease, *, reason: str, max_attempts: int) -> None:
    """This attempt failed: the shard goes back to the queue, or fails for good when its attempts are used up."""
    ended = session.execute(
        update(Shard)
        .where(held([lease]))
        .values(
            state=case((Shard.attempts >= max_attempts, "failed"), else_="pending"),
            lease_owner=None,
            lease_until=None,
            error=reason[:2000],
        )
        .returning(Shard.id, Shard.state)
    ).all()
    count_ended(session, [shard_id for shard_id, state in ended if state == "failed"])


def expire(session: Session, *, max_attempts: int) -> int:
    """Take back the shards of silent workers; returns how many."""
    lost = session.execute(
        update(Shard)
        .where(Shard.state == "leased", Shard.lease_until < database_now(session))
        .values(
            state=case((Shard.attempts >= max_attempts, "failed"), else_="pending"),
            error=case(
                (Shard.attempts >= max_attempts, f"lost with its worker {max_attempts} times"), else_=Shard.error
            ),
            lease_owner=None,
            lease_until=None,
        )
        .returning(Shard.id, Shard.state)
    ).all()
    count_ended(session, [shard_id for shard_id, state in lost if state == "failed"])
    return len(lost)


def commit(session: Session, lease: ShardLease, stored: StoredShard) -> None:
    """Count a verified shard in every live dataset that takes from it. Raises LostLease when fenced out.

    Calling it again after an ambiguous COMMIT is safe: if the row already holds our object, nothing happens.
    """
    done = session.scalars(
        update(Shard)
        .where(held([lease]))
        .values(
            state="done",
            lease_owner=None,
            lease_until=None,
            object_key=stored.object_key,
            size_bytes=stored.size_bytes,
            sha256=stored.sha256,
            accepted=stored.accepted,
            short_slots=list(stored.short_slots),
            rejections=dict(stored.rejections),
            error=None,
            done_at=database_now(session),
        )
        .returning(Shard.id)
    ).all()
    if done:
        count_ended(session, [lease.shard_id])
        return
    if session.scalar(select(Shard.object_key).where(Shard.id == lease.shard_id)) != stored.object_key:
        raise LostLease(f"shard {lease.shard_id} was claimed again after fence {lease.fence}")


class Taken(NamedTuple):
    job_id: str
    position: int
    done: int
    failed: int
    rejected: int


def takes(session: Session, shard_ids: Sequence[int]) -> list[Taken]:
    """What finished shards mean for each live dataset, in job order so that two commits cannot deadlock."""
    links = session.execute(
        select(DatasetShard.job_id, DatasetShard.position, DatasetShard.take, Shard)
        .join(Shard, Shard.id == DatasetShard.shard_id)
        .join(Job, Job.id == DatasetShard.job_id)
        .where(Shard.id.in_(shard_ids), Job.state.in_(ACTIVE))
        .order_by(DatasetShard.job_id, DatasetShard.position)
    ).all()
    return [count_take(job_id, position, take, shard) for job_id, position, take, shard in links]


def count_take(job_id: str, position: int, take: int, shard: Shard) -> Taken:
    if shard.state == "failed":
        return Taken(job_id, position, 0, take, 0)
    short = sum(slot < shard.start_slot + take for slot in shard.short_slots)
    rejected = sum(int(count) for count in shard.rejections.values() if isinstance(count, int))
    return Taken(job_id, position, take - short, short, rejected)


def count_ended(session: Session, shard_ids: Sequence[int]) -> None:
    """Count shards that were just done or failed in every live dataset that takes from them."""
    count_taken(session, takes(session, shard_ids), reused=False)


def count_reused(session: Session, job_id: str, shard_ids: Sequence[int]) -> None:
    """Count shards that were done before this dataset asked for them."""
    count_taken(session, [taken for taken in takes(session, shard_ids) if taken.job_id == job_id], reused=True)


def uncount_failed(session: Session, shard_ids: Sequence[int]) -> None:
    """Failed shards are about to be tried again: live datasets that counted them must not count them twice."""
    counted = [taken._replace(failed=-taken.failed) for taken in takes(session, shard_ids)]
    count_taken(session, counted, reused=False)


def count_taken(session: Session, taken_shards: Sequence[Taken], *, reused: bool) -> None:
    """Class rows first, then the jobs: the one lock order."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for taken in taken_shards:
        session.execute(
            update(DatasetClass)
            .where(DatasetClass.job_id == taken.job_id, DatasetClass.position == taken.position)
            .values(
                done=DatasetClass.done + taken.done,
                failed=DatasetClass.failed + taken.failed,
                rejected=DatasetClass.rejected + taken.rejected,
            )
        )
        for index, value in enumerate((taken.done, taken.failed, taken.rejected)):
            totals[taken.job_id][index] += value
    for job_id, (done, failed, rejected) in totals.items():
        add_to_job(session, job_id, done=done, failed=failed, rejected=rejected, reused=done if reused else 0)


def add_to_job(session: Session, job_id: str, *, done: int, failed: int, rejected: int, reused: int) -> None:
    row = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state.in_(ACTIVE))
        .values(
            done=Job.done + done,
            failed=Job.failed + failed,
            rejected=Job.rejected + rejected,
            reused=Job.reused + reused,
            version=Job.version + 1,
        )
        .returning(Job.done, Job.failed, Job.total)
    ).first()
    if row is None:
        return  # it ended since we looked
    lifecycle.record(session, job_id, "progress", {"done": row.done, "failed": row.failed, "total": row.total})
