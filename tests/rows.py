"""Rows that tests start from, made the way the API makes them."""

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from services.dispatcher.plan import plan_job
from shared import leases, lifecycle
from shared.classes import ClassText
from shared.database import Database, database_now
from shared.ids import job_id
from shared.leases import ShardLease, StoredShard
from shared.prompts import PromptField, PromptSpec
from shared.specs import Recipe
from shared.tables import DatasetClass, Job, Team
from shared.tables import Recipe as RecipeRow

RECIPE = Recipe(
    model_digest="sha256:test",
    scheduler="dpm++",
    steps=2,
    guidance=2.0,
    width=32,
    height=32,
    prompt=PromptSpec(kind="name"),
    seed=0,
)


def parse_prompt(value: str | dict[str, str]) -> PromptSpec:
    """As a request's `prompt` is read."""
    return TypeAdapter(PromptField).validate_python(value)


def add_team(session: Session, team_id: str, *, weight: int = 1, max_leased_shards: int | None = None) -> None:
    now = database_now(session)
    team = Team(id=team_id, name=team_id, created_at=now, weight=weight, max_leased_shards=max_leased_shards)
    session.add(team)
    session.flush()


def add_dataset(
    session: Session,
    *,
    images: dict[str, int],
    recipe: Recipe = RECIPE,
    model: str = "digits-sd",
    priority: int = 0,
    team: str = "default",
    **limits: object,
) -> Job:
    """A queued dataset with so many images per class id; class keys are `<id>-text`."""
    if session.get(RecipeRow, recipe.digest) is None:
        session.add(RecipeRow(digest=recipe.digest, recipe=recipe.model_dump(mode="json"), model=model))
    job = Job(
        id=job_id("dataset"),
        kind="dataset",
        team_id=team,
        state="queued",
        priority=priority,
        spec={"recipe_digest": recipe.digest, "model": model},
        total=sum(images.values()),
        created_at=database_now(session),
        **limits,
    )
    session.add(job)
    session.flush()
    for position, (class_id, total) in enumerate(images.items()):
        text = ClassText(id=class_id, names=(class_id,)).model_dump(mode="json")
        row = DatasetClass(
            job_id=job.id, position=position, class_id=class_id, class_key=f"{class_id}-text", text=text, total=total
        )
        session.add(row)
    session.flush()
    return job


def plan_all(database: Database, job_id: str, *, shard_slots: int = 128, window: int = 100) -> None:
    planned = 1
    while planned:
        with database.write() as session:
            planned = plan_job(session, session.get_one(Job, job_id), shard_slots=shard_slots, window=window)


def add_job(session: Session, kind: str, *, state: str = "queued", team: str = "default", priority: int = 0) -> Job:
    job = Job(
        id=job_id(kind),
        kind=kind,
        team_id=team,
        state=state,
        priority=priority,
        spec={},
        total=10,
        created_at=database_now(session),
    )
    session.add(job)
    session.flush()
    return job


def planned_dataset(database: Database, images: dict[str, int], *, team: str = "default", priority: int = 0) -> str:
    with database.write() as session:
        job = add_dataset(session, images=images, team=team, priority=priority)
    plan_all(database, job.id)
    return job.id


def claim(database: Database, *, limit: int = 1, lease_seconds: float = 60) -> list[ShardLease]:
    with database.write() as session:
        return leases.claim_shards(session, worker="w", models=["digits-sd"], limit=limit, lease_seconds=lease_seconds)


def stored(lease: ShardLease, *, short: tuple[int, ...] = ()) -> StoredShard:
    accepted = lease.stop_slot - lease.start_slot - len(short)
    return StoredShard(lease.object_key, 100, "0" * 64, accepted, short, {"blank": len(short)} if short else {})


def commit(database: Database, lease: ShardLease, *, short: tuple[int, ...] = ()) -> None:
    with database.write() as session:
        leases.commit(session, lease, stored(lease, short=short))


def job_of(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return session.get_one(Job, job_id)


def state_of(database: Database, job_id: str) -> str:
    with database.read() as session:
        return session.get_one(Job, job_id).state


def end(database: Database, job_id: str, state: str) -> None:
    with database.write() as session:
        assert lifecycle.transition(session, job_id, state)
