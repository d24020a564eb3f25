"""Teams as an operator sees them: weight, limits, and what of them is in use."""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.database import database_now
from shared.errors import NotFound
from shared.ids import new_id
from shared.tables import JOB_STATES, TERMINAL, Job, Shard, Team

LIVE = tuple(state for state in JOB_STATES if state not in TERMINAL)


class InUse(NamedTuple):
    live_jobs: int
    leased_shards: int
    stored_bytes: int


def find_or_create_team(session: Session, name: str) -> Team:
    team = session.scalars(select(Team).where(Team.name == name)).one_or_none()
    if team is None:
        team = Team(id=new_id("tm"), name=name, created_at=database_now(session))
        session.add(team)
        session.flush()
    return team


def list_teams(session: Session) -> list[Team]:
    return list(session.scalars(select(Team).order_by(Team.name)))


def change_team(session: Session, name: str, changes: Mapping[str, int | None]) -> Team:
    """`changes` are the weight and limits by column name, None for no limit; raises NotFound."""
    team = session.scalars(select(Team).where(Team.name == name).with_for_update(key_share=True)).one_or_none()
    if team is None:
        known = ", ".join(known.name for known in list_teams(session))
        raise NotFound(f"there is no team {name!r}; known: {known}; `synthclone keys create --team` makes one")
    for column, value in changes.items():
        setattr(team, column, value)
    session.flush()
    return team


def in_use(session: Session, team: str) -> InUse:
    return InUse(count_live_jobs(session, team), count_leased_shards(session, team), sum_stored_bytes(session, team))


def count_live_jobs(session: Session, team: str) -> int:
    live = (Job.team_id == team, Job.state.in_(LIVE))
    return session.scalar(select(func.count()).select_from(Job).where(*live)) or 0


def count_leased_shards(session: Session, team: str) -> int:
    """Reads the leased shards only, through the index of leases."""
    leased = select(func.count()).select_from(Shard).join(Job, Job.id == Shard.drawn_for)
    return session.scalar(leased.where(Shard.state == "leased", Job.team_id == team)) or 0


def sum_stored_bytes(session: Session, team: str) -> int:
    return int(session.scalar(select(func.sum(Job.stored_bytes)).where(Job.team_id == team)) or 0)
