"""Who is served next: start-time fair queuing between teams (docs/decisions/0007), then priority, then age.

A team's tags are slots divided by its weight. Its next claim starts at the later of its own finish tag and the
virtual time, which is the largest start tag of any claim so far; the team with the smallest start is served.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Float,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    union,
)
from sqlalchemy.orm import Session, aliased

from .redrawing import counted_damage
from .tables import DatasetShard, Job, Recipe, Shard, Team

# As literals, for a partial index serves only a statement whose text implies the index's condition.
PENDING, LEASED = literal_column("'pending'", String()), literal_column("'leased'", String())
ONE = literal_column("1", Integer())
LIVE = Job.state.in_([literal_column("'queued'"), literal_column("'running'")])
GROWING = and_(Job.kind == literal_column("'dataset'"), LIVE, ~Job.cancel_requested, Job.stop_reason.is_(None))
# As many as can be emptied by others between our look and our claim.
CANDIDATES = 64


class Candidate(NamedTuple):
    """A job with shards to claim; one that grows no more has only damaged shards drawn again."""

    job_id: str
    team_id: str
    state: str
    is_growing: bool
    start: float
    recipe_digest: str
    max_leased_shards: int | None


def recipe_of_job() -> ColumnElement[str]:
    """Of the enclosing `Job`: what all its shards are drawn by. Its spec would say so too, among megabytes."""
    link, shard = aliased(DatasetShard), aliased(Shard)
    # The least of them comes from the index; for any of them PostgreSQL would begin to read the table.
    first = select(func.min(link.shard_id)).where(link.job_id == Job.id).correlate(Job).scalar_subquery()
    return select(shard.recipe_digest).where(shard.id == first).correlate(Job).scalar_subquery()


def claimable_jobs() -> CompoundSelect[str, str]:
    """Ids and recipes of jobs that have shards to claim."""
    # A subquery with LIMIT is asked job by job; EXISTS would be turned into a join over all pending shards.
    pending = (
        select(Shard.id)
        .join(DatasetShard, and_(DatasetShard.job_id == Job.id, DatasetShard.shard_id == Shard.id))
        .where(Shard.state == PENDING, Shard.recipe_digest == recipe_of_job())
        .correlate(Job)
        .limit(ONE)
        .scalar_subquery()
    )
    growing = select(Job.id, recipe_of_job()).where(GROWING, pending.is_not(None))
    redrawn = (
        select(DatasetShard.job_id, Shard.recipe_digest)
        .join(Shard, Shard.id == DatasetShard.shard_id)
        .where(Shard.state == PENDING, counted_damage())
    )
    return union(growing, redrawn)


def leased_by_team() -> ColumnElement[int]:
    job = aliased(Job)
    query = select(func.count()).select_from(Shard).join(job, job.id == Shard.drawn_for)
    return query.where(Shard.state == LEASED, job.team_id == Team.id).correlate(Team).scalar_subquery()


@cache
def serving_order() -> Select[str, str, str, bool, float, str, int | None]:
    """Made once: building this statement takes SQLAlchemy longer than PostgreSQL needs to answer it."""
    claimable = claimable_jobs().subquery()
    virtual = select(func.max(Team.served_from)).scalar_subquery()
    start = case((Team.served_until > virtual, Team.served_until), else_=virtual)
    recipe_digest = claimable.c[1]
    return (
        select(Job.id, Job.team_id, Job.state, GROWING, start, recipe_digest, Team.max_leased_shards)
        .join(claimable, claimable.c[0] == Job.id)
        .join(Team, Team.id == Job.team_id)
        .join(Recipe, Recipe.digest == recipe_digest)
        .where(
            Recipe.model.in_(bindparam("models", expanding=True)),
            or_(Team.max_leased_shards.is_(None), leased_by_team() < Team.max_leased_shards),
        )
        .order_by(start, Team.id, Job.priority.desc(), Job.id)
        .limit(CANDIDATES)
    )


def candidates(session: Session, models: Sequence[str]) -> list[Candidate]:
    """Jobs with shards to claim that these models can draw, in the order in which they are to be served."""
    rows = session.connection().execute(serving_order(), {"models": list(models)})
    return [Candidate(*row) for row in rows]


def room_of(session: Session, team_id: str) -> int:
    """How many more shards a limited team may lease; its row stays locked, so that two claims see each other."""
    limit = session.scalars(
        select(Team.max_leased_shards).where(Team.id == team_id).with_for_update(key_share=True)
    ).one()
    leased = session.scalars(select(leased_by_team()).select_from(Team).where(Team.id == team_id)).one()
    return max((limit or 0) - leased, 0)


def running_load(kinds: Sequence[str]) -> ColumnElement[float | Decimal]:
    """Jobs of these kinds that the team of `Job` has running, divided by its weight (joined as `Team`)."""
    other = aliased(Job)
    running = (
        select(func.count())
        .select_from(other)
        .where(other.kind.in_(kinds), other.state == literal_column("'running'"), other.team_id == Team.id)
        .correlate(Team)
        .scalar_subquery()
    )
    return cast(running, Float) / cast(Team.weight, Float)
