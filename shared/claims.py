"""Lease pending shards of one job and charge its team: one statement on PostgreSQL, three on SQLite."""

from collections.abc import Mapping, Sequence
from functools import cache

from sqlalchemy import (
    Connection,
    Executable,
    Float,
    Integer,
    Row,
    Select,
    Update,
    and_,
    bindparam,
    case,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.orm import Session

from .database import clock
from .fairness import PENDING, Candidate
from .redrawing import counted_damage
from .tables import Base, DatasetClass, DatasetShard, JsonObject, Shard

SHARDS, TEAMS = Base.metadata.tables["shards"], Base.metadata.tables["teams"]
# Of these columns and their order a ShardLease is made.
Picked = Row[int, int, str, str, str, JsonObject, int, int]


def grab(session: Session, candidate: Candidate, *, most: int, worker: str, lease_seconds: float) -> Sequence[Picked]:
    """Up to `most` shards, breadth first; what others lock at this moment is passed over."""
    connection = session.connection()
    # No name is that of a column: SQLAlchemy would set the column to it.
    values = {
        "of_job": candidate.job_id,
        "of_recipe": candidate.recipe_digest,
        "most": most,
        "worker": worker,
        "seconds": lease_seconds,
        "of_team": candidate.team_id,
        "start": candidate.start,
    }
    if connection.dialect.name == "postgresql":
        return connection.execute(grab_at_once(candidate.is_growing), values).all()
    return grab_stepwise(connection, candidate.is_growing, values)


@cache
def pending_shards(is_growing: bool) -> Select[int, int, str, str, str, JsonObject, int, int]:
    """A dataset that grows no more has only damaged shards drawn again."""
    query = (
        select(
            Shard.id,
            (Shard.fence + 1).label("fence"),
            Shard.recipe_digest,
            Shard.class_key,
            DatasetClass.class_id,
            DatasetClass.text,
            Shard.start_slot,
            Shard.stop_slot,
        )
        # Without statistics SQLite would walk over every finished link of the job.
        .with_hint(Shard, "INDEXED BY ix_shards_pending", "sqlite")
        .join(DatasetShard, DatasetShard.shard_id == Shard.id)
        .join(
            DatasetClass,
            and_(DatasetClass.job_id == DatasetShard.job_id, DatasetClass.position == DatasetShard.position),
        )
        .where(
            DatasetShard.job_id == bindparam("of_job"),
            Shard.recipe_digest == bindparam("of_recipe"),
            Shard.state == PENDING,
        )
        .order_by(Shard.start_slot, Shard.id)
        .limit(bindparam("most", type_=Integer()))
        .with_for_update(of=Shard, skip_locked=True)
    )
    return query if is_growing else query.where(counted_damage())


def lease() -> Update:
    return update(SHARDS).values(
        state="leased",
        lease_owner=bindparam("worker"),
        lease_until=clock(bindparam("seconds", type_=Float())),
        fence=SHARDS.c.fence + 1,
        attempts=SHARDS.c.attempts + 1,
        drawn_for=bindparam("of_job"),
    )


def charge(slots: object) -> Update:
    """Move the team's tags; other claims of the team wait for this row.

    The start tag is the one the team was chosen for: a claim at the same moment must not push the virtual time beyond
    the tags of teams that wait.
    """
    start = bindparam("start", type_=Float())
    served_until = case((TEAMS.c.served_until > start, TEAMS.c.served_until), else_=start)
    return (
        update(TEAMS)
        .where(TEAMS.c.id == bindparam("of_team"))
        .values(
            served_from=case((TEAMS.c.served_from > start, TEAMS.c.served_from), else_=start),
            served_until=served_until + func.coalesce(slots, 0.0) / TEAMS.c.weight,
        )
    )


@cache
def grab_at_once(is_growing: bool) -> Select[int, int, str, str, str, JsonObject, int, int]:
    """Three statements would take the client longer than the server (bench/claims.py)."""
    picked = pending_shards(is_growing).cte("picked")
    leased = lease().where(SHARDS.c.id == picked.c.id).cte("leased")
    slots = select(func.sum(picked.c.stop_slot - picked.c.start_slot)).scalar_subquery()
    charged = charge(slots).where(exists(select(picked.c.id))).cte("charged")
    return select(picked).order_by(picked.c.start_slot, picked.c.id).add_cte(leased, charged)


def grab_stepwise(connection: Connection, is_growing: bool, values: Mapping[str, object]) -> Sequence[Picked]:
    given = dict(values)

    def run(statement: Executable, *names: str, **more: object) -> None:
        connection.execute(statement, {name: given[name] for name in names} | more)

    of_job = {name: given[name] for name in ("of_job", "of_recipe", "most")}
    rows = connection.execute(pending_shards(is_growing), of_job).all()
    if rows:
        shard_ids = [row[0] for row in rows]
        run(lease().where(SHARDS.c.id.in_(shard_ids)), "worker", "seconds", "of_job")
        run(charge(float(sum(row[7] - row[6] for row in rows))), "of_team", "start")
    return rows
