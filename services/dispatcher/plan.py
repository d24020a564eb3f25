"""Shard rows a window ahead of the workers, breadth first, so a job stopped early leaves a balanced set."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.leases import count_reused, uncount_failed
from shared.tables import ACTIVE, DatasetClass, DatasetShard, Job, Shard


def open_shards(session: Session, job_id: str) -> int:
    links = (
        select(func.count())
        .select_from(DatasetShard)
        .join(Shard, Shard.id == DatasetShard.shard_id)
        .where(DatasetShard.job_id == job_id)
    )
    # One state at a time, so that each count reads a partial index instead of every link of the job.
    return sum(session.scalar(links.where(Shard.state == state)) or 0 for state in ("pending", "leased"))


def plan_job(session: Session, job: Job, *, shard_slots: int, window: int) -> int:
    """Give the classes that are furthest behind their next shard, up to `window` open ones; returns how many."""
    room = window - open_shards(session, job.id)
    if room <= 0:
        return 0
    behind = session.scalars(
        select(DatasetClass)
        .where(DatasetClass.job_id == job.id, DatasetClass.planned < DatasetClass.total)
        .order_by(DatasetClass.planned, DatasetClass.position)
        .limit(room)
    ).all()
    if not behind:
        return 0
    recipe_digest = str(job.spec["recipe_digest"])
    tiles = existing_tiles(session, recipe_digest, behind)
    missing = [new_tile(recipe_digest, row, shard_slots) for row in behind if (row.class_key, row.planned) not in tiles]
    session.add_all(missing)
    session.flush()
    tiles |= {(shard.class_key, shard.start_slot): shard for shard in missing}
    take_tiles(session, job, [(row, tiles[row.class_key, row.planned]) for row in behind])
    return len(behind)


def existing_tiles(session: Session, recipe_digest: str, rows: Sequence[DatasetClass]) -> dict[tuple[str, int], Shard]:
    """The shards other datasets already planned at these places, locked so that none ends while we link to it."""
    found = session.scalars(
        select(Shard)
        .where(
            Shard.recipe_digest == recipe_digest,
            Shard.class_key.in_({row.class_key for row in rows}),
            Shard.start_slot.in_({row.planned for row in rows}),
        )
        .with_for_update()
    )
    return {(shard.class_key, shard.start_slot): shard for shard in found}


def new_tile(recipe_digest: str, row: DatasetClass, shard_slots: int) -> Shard:
    stop = min(row.planned + shard_slots, row.total)
    return Shard(
        recipe_digest=recipe_digest, class_key=row.class_key, start_slot=row.planned, stop_slot=stop, state="pending"
    )


def take_tiles(session: Session, job: Job, pairs: Sequence[tuple[DatasetClass, Shard]]) -> None:
    """Link each class to its next shard; what was drawn before counts at once, what had failed is tried again."""
    uncount_failed(session, [shard.id for _, shard in pairs if shard.state == "failed"])
    for row, shard in pairs:
        stop = min(shard.stop_slot, row.total)
        take = stop - shard.start_slot
        session.add(DatasetShard(job_id=job.id, shard_id=shard.id, position=row.position, take=take))
        row.planned = stop
        if shard.state in ("failed", "dormant"):
            shard.state, shard.attempts, shard.error = "pending", 0, None
    session.flush()
    count_reused(session, job.id, [shard.id for _, shard in pairs if shard.state == "done"])


def rest_unwanted(session: Session) -> None:
    """Put aside pending shards that no live dataset needs any more; a later dataset wakes them up."""
    live = (
        select(DatasetShard.shard_id)
        .join(Job, Job.id == DatasetShard.job_id)
        .where(DatasetShard.shard_id == Shard.id, Job.state.in_(ACTIVE))
        .exists()
    )
    for shard in session.scalars(
        select(Shard).where(Shard.state == "pending", ~live).with_for_update(skip_locked=True)
    ):
        shard.state = "dormant"
