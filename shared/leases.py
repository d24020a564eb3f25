"""Claim, extend, commit and give back shards. A fence number grows with each claim; only its holder can write.

Every function takes an open write transaction, so the caller decides what else happens atomically.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, bindparam, case, or_, select, update
from sqlalchemy.orm import Session

from . import fairness, lifecycle
from .claims import Picked, grab
from .counting import Cost, count
from .database import clock
from .errors import LostLease
from .redrawing import counted_damage, note_damage, note_lost, note_redrawn
from .tables import ACTIVE, Base, DatasetShard, Job, JsonObject, Shard

# Of what one sweep over all shards changes: SQLite takes 32,766 values in a statement.
MOST_AT_ONCE = 5000

SHARDS = Base.metadata.tables["shards"]
# Made once and of columns, as in `counting`.
STORED = ("object_key", "size_bytes", "sha256", "accepted", "short_slots", "rejections")
COMMIT = (
    update(SHARDS)
    .where(SHARDS.c.id == bindparam("of_shard"), SHARDS.c.fence == bindparam("of_fence"), SHARDS.c.state == "leased")
    .values({name: bindparam(name) for name in STORED})
    .values(state="done", lease_owner=None, lease_until=None, error=None, done_at=clock())
    .returning(SHARDS.c.drawn_for, SHARDS.c.damage)
)


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
        """Unique to this claim, so an object is never overwritten (docs/decisions/0003)."""
        span = f"{self.start_slot:08d}-{self.stop_slot:08d}-{self.fence}"
        return f"images/{self.recipe_digest}/{self.class_key}/{span}.tar"


class StoredShard(NamedTuple):
    """A shard object that was verified in the bucket, and how long a worker took to draw it."""

    object_key: str
    size_bytes: int
    sha256: str
    accepted: int
    short_slots: tuple[int, ...]
    rejections: dict[str, int]
    seconds: float = 0.0


def wanted(*, by: ColumnElement[bool]) -> ColumnElement[bool]:
    """Such a dataset needs the shard, or one that counted it lost its object."""
    return (
        select(DatasetShard.job_id)
        .join(Job, Job.id == DatasetShard.job_id)
        .where(DatasetShard.shard_id == Shard.id, or_(by, counted_damage()))
        .correlate(Shard)
        .exists()
    )


def claim_shards(
    session: Session, *, worker: str, models: Sequence[str], limit: int, lease_seconds: float
) -> list[ShardLease]:
    """Up to `limit` pending shards of one job (so of one recipe), breadth first over its classes."""
    for candidate in fairness.candidates(session, models):
        rows = grab_within_limit(session, candidate, most=limit, worker=worker, lease_seconds=lease_seconds)
        if rows:
            if candidate.state == "queued":
                lifecycle.transition(session, candidate.job_id, "running")
            return [ShardLease(*row) for row in rows]
    return []


def grab_within_limit(
    session: Session, candidate: fairness.Candidate, *, most: int, worker: str, lease_seconds: float
) -> Sequence[Picked]:
    if candidate.max_leased_shards is None:
        return grab(session, candidate, most=most, worker=worker, lease_seconds=lease_seconds)
    with session.begin_nested() as savepoint:
        room = min(most, fairness.room_of(session, candidate.team_id))
        rows = grab(session, candidate, most=room, worker=worker, lease_seconds=lease_seconds) if room else []
        if not rows:
            # Gives the team's row free: a claim that waits for the next team while it holds this one could deadlock.
            savepoint.rollback()
    return rows


def held(leases: Sequence[ShardLease]) -> ColumnElement[bool]:
    pairs = [and_(Shard.id == lease.shard_id, Shard.fence == lease.fence) for lease in leases]
    return and_(Shard.state == "leased", or_(*pairs))


def extend(session: Session, leases: Sequence[ShardLease], *, lease_seconds: float) -> set[int]:
    """Ids of the shards that are still ours and still wanted; the rest must stop at the next batch."""
    if not leases:
        return set()
    until = clock(lease_seconds)
    # A dataset that stops softly takes what is being drawn, so it counts here and not where shards are claimed.
    needed = wanted(by=and_(Job.state.in_(ACTIVE), ~Job.cancel_requested))
    # Locked in the planner's order, or the two could deadlock.
    session.scalars(select(Shard.id).where(held(leases)).order_by(Shard.id).with_for_update()).all()
    ours = update(Shard).where(held(leases), needed).values(lease_until=until).returning(Shard.id)
    return set(session.scalars(ours.execution_options(synchronize_session=False)).all())


def release(session: Session, leases: Sequence[ShardLease]) -> None:
    """Give shards back untouched: the attempt is not counted."""
    if leases:
        session.execute(
            update(Shard)
            .where(held(leases))
            .values(state="pending", lease_owner=None, lease_until=None, attempts=Shard.attempts - 1)
            .execution_options(synchronize_session=False)
        )


def give_up(session: Session, lease: ShardLease, *, reason: str, max_attempts: int) -> None:
    """This attempt failed: the shard goes back to the queue, or fails for good when its attempts are used up."""
    end_attempts(session, held([lease]), max_attempts=max_attempts, error=reason[:2000])


def expire(session: Session, *, max_attempts: int) -> int:
    """Take back the shards of silent workers; returns how many."""
    # In one order, so that two dispatchers cannot wait for each other.
    silent = (
        select(Shard.id)
        .where(Shard.state == fairness.LEASED, Shard.lease_until < clock())
        .order_by(Shard.id)
        .limit(MOST_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    shard_ids = session.scalars(silent).all()
    if not shard_ids:
        return 0
    lost = f"lost with its worker {max_attempts} times"
    error = case((Shard.attempts >= max_attempts, lost), else_=Shard.error)
    return end_attempts(session, Shard.id.in_(shard_ids), max_attempts=max_attempts, error=error)


def end_attempts(
    session: Session, which: ColumnElement[bool], *, max_attempts: int, error: str | ColumnElement[str | None]
) -> int:
    ended = session.execute(
        update(Shard)
        .where(which)
        .values(
            state=case((Shard.attempts >= max_attempts, "failed"), else_="pending"),
            lease_owner=None,
            lease_until=None,
            error=error,
        )
        .returning(Shard.id, Shard.state, Shard.damage)
        .execution_options(synchronize_session=False)
    ).all()
    failed = [row for row in ended if row.state == "failed"]
    if failed:
        count(session, [row.id for row in failed])
        note_lost(session, {row.id: row.damage for row in failed if row.damage is not None})
    return len(ended)


def commit(session: Session, lease: ShardLease, stored: StoredShard) -> None:
    """Count a verified shard in every live dataset that takes from it. Raises LostLease when fenced out.

    Calling it again after an ambiguous COMMIT is safe: if the row already holds our object, nothing happens.
    """
    values = {
        "of_shard": lease.shard_id,
        "of_fence": lease.fence,
        **stored._asdict(),
        "short_slots": list(stored.short_slots),
        "rejections": dict(stored.rejections),
    }
    del values["seconds"]
    done = session.connection().execute(COMMIT, values).first()
    if done is not None:
        count(session, [lease.shard_id], cost=cost_of(done.drawn_for, stored, is_redrawn=done.damage is not None))
        if done.damage is not None:
            note_redrawn(session, lease.shard_id)
    elif session.scalar(select(Shard.object_key).where(Shard.id == lease.shard_id)) != stored.object_key:
        raise LostLease(f"shard {lease.shard_id} was claimed again after fence {lease.fence}")


def cost_of(job_id: str | None, stored: StoredShard, *, is_redrawn: bool) -> Cost | None:
    """A redrawn shard costs time once more, but its images and bytes only replace those that were counted."""
    if job_id is None:
        return None  # claimed by a version that did not charge for it
    if is_redrawn:
        return Cost(job_id, 0, 0, stored.seconds)
    return Cost(job_id, stored.accepted, stored.size_bytes, stored.seconds)


def report_damage(session: Session, *, object_key: str, reason: str) -> bool:
    """Have a finished shard drawn again whose object is gone or differs; True if this call brought that about.

    Counts stay: the datasets that counted it do not count it again. The key stays in the row until the next commit.
    """
    shard_id = session.scalar(
        update(Shard)
        .where(Shard.object_key == object_key, Shard.state == "done")
        .values(state="pending", attempts=0, damage=reason[:2000])
        .returning(Shard.id)
        .execution_options(synchronize_session=False)
    )
    if shard_id is not None:
        note_damage(session, shard_id, object_key, reason)
    return shard_id is not None
