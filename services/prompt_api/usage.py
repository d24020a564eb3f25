"""`/usage`: what a team's jobs have cost, and how much room its limits leave."""

from datetime import UTC, date, datetime, time
from typing import Annotated, get_args

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from shared.database import database_now
from shared.errors import Rejected
from shared.tables import Job, Team

from .dependencies import ServerDatabase, TeamId
from .problems import documented
from .schemas import JobKind, View
from .teams import InUse, in_use

router = APIRouter(tags=["teams"])
Day = Annotated[date | None, Query(description="Such as 2026-11-01; in UTC.")]
ADDED = {
    "done": Job.done,
    "reused": Job.reused,
    "drawn_images": Job.drawn_images,
    "worker_seconds": Job.spent_seconds,
    "stored_bytes": Job.stored_bytes,
}


class KindUsage(View):
    """Of the jobs of one kind; `done` counts images, steps of trainings, benchmarks, evaluations of experiments or
    networks of probes."""

    jobs: int
    done: int
    reused: int = Field(description="Of the done, those that an earlier dataset had drawn; they cost nothing.")
    drawn_images: int
    worker_seconds: float
    stored_bytes: int


class LimitView(View):
    limit: int | None = Field(description="Null: none.")
    used: int | None = Field(description="At this moment; null where nothing adds up.")


class Limits(View):
    live_jobs: LimitView
    images_of_one_dataset: LimitView
    leased_shards: LimitView = Field(description="What workers draw for the team at the same time.")
    stored_bytes: LimitView


class UsageView(View):
    team: str
    since: date
    until: date = Field(description="The last day counted.")
    dataset: KindUsage
    training: KindUsage
    evaluation: KindUsage
    experiment: KindUsage
    probe: KindUsage
    limits: Limits
    weight: int = Field(description="The team's share of the workers, relative to other teams' weights.")


@router.get("/usage", responses=documented())
def get_usage(database: ServerDatabase, team: TeamId, since: Day = None, until: Day = None) -> UsageView:
    """What the jobs created from `since` up to and with `until` have cost so far; by default this month's."""
    with database.read() as session:
        today = database_now(session).date()
        first, last = since or today.replace(day=1), until or today
        if first > last:
            raise Rejected(f"since {first} is after until {last}; give an earlier since or a later until")
        row = session.get_one(Team, team)
        return UsageView(
            team=row.name,
            since=first,
            until=last,
            **usage_by_kind(session, team, first, last),
            limits=view_limits(row, in_use(session, team)),
            weight=row.weight,
        )


def usage_by_kind(session: Session, team: str, first: date, last: date) -> dict[JobKind, KindUsage]:
    """Reads the team's jobs once; never a shard."""
    created = Job.created_at.between(datetime.combine(first, time.min, UTC), datetime.combine(last, time.max, UTC))
    sums: list[ColumnElement[float]] = [func.coalesce(func.sum(column), 0) for column in ADDED.values()]
    query = select(Job.kind, func.count(), *sums).where(Job.team_id == team, created).group_by(Job.kind)
    found = {kind: (jobs, *amounts) for kind, jobs, *amounts in session.execute(query)}
    names = ("jobs", *ADDED)
    return {
        kind: KindUsage.model_validate(dict(zip(names, found.get(kind, (0,) * len(names)), strict=True)))
        for kind in get_args(JobKind)
    }


def view_limits(team: Team, used: InUse) -> Limits:
    return Limits(
        live_jobs=LimitView(limit=team.max_live_jobs, used=used.live_jobs),
        images_of_one_dataset=LimitView(limit=team.max_images, used=None),
        leased_shards=LimitView(limit=team.max_leased_shards, used=used.leased_shards),
        stored_bytes=LimitView(limit=team.max_stored_bytes, used=used.stored_bytes),
    )
