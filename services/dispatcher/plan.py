"""Shard rows a window ahead of the workers, breadth first, so a job stopped early leaves a balanced set."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from shared.counting import count
from shared.fairness import GROWING, PENDING
from shared.leases import MOST_AT_ONCE, wanted
from shared.tables import DatasetClass, DatasetShard, Job, Shard

from .stopping import room_in_budget, stop, tile_slots

Tiles = dict[tuple[str, int], Shard]


class Tile(NamedTuple):
    row: DatasetClass
    shard: Shard
    # 0 where it was drawn before: only what is new is paid for.
    slots_to_draw: int


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
    opened = open_shards(session, job.id)
    behind = classes_behind(session, job.id, window - opened)
    if not behind:
        return 0
    slots = tile_slots(session, job, shard_slots)
    tiles = affordable(session, job, behind, slots)
    if not tiles and opened == 0:
        stop(session, job.id, "images")
    if tiles:
        take_tiles(session, job, tiles)
    return len(tiles)


def classes_behind(session: Session, job_id: str, room: int) -> Sequence[DatasetClass]:
    if room <= 0:
        return []
    return session.scalars(
        select(DatasetClass)
        .where(DatasetClass.job_id == job_id, DatasetClass.planned < DatasetClass.total)
        .order_by(DatasetClass.planned, DatasetClass.position)
        .limit(room)
    ).all()


def affordable(session: Session, job: Job, behind: Sequence[DatasetClass], slots: int) -> list[Tile]:
    """The next tile of each class, as far as the budget goes: one class left out would unbalance the set."""
    recipe_digest = str(job.spec["recipe_digest"])
    existing = existing_tiles(session, recipe_digest, behind)
    room = room_in_budget(job)
    tiles: list[Tile] = []
    for row in behind:
        size = min(slots, row.total - row.planned, room)
        shard = existing.get((row.class_key, row.planned)) or new_tile(recipe_digest, row, size)
        to_draw = 0 if shard.state == "done" else shard.stop_slot - shard.start_slot
        if shard.start_slot == shard.stop_slot or to_draw > room:
            break
        tiles.append(Tile(row, shard, to_draw))
        room -= to_draw
    return tiles


def existing_tiles(session: Session, recipe_digest: str, rows: Sequence[DatasetClass]) -> Tiles:
    """The shards other datasets already planned at these places, locked so that none ends while we link to it."""
    found = session.scalars(
        select(Shard)
        .where(
            Shard.recipe_digest == recipe_digest,
            Shard.class_key.in_({row.class_key for row in rows}),
            Shard.start_slot.in_({row.planned for row in rows}),
        )
        .order_by(Shard.id)
        .with_for_update()
    )
    return {(shard.class_key, shard.start_slot): shard for shard in found}


def new_tile(recipe_digest: str, row: DatasetClass, slots: int) -> Shard:
    return Shard(
        recipe_digest=recipe_digest,
        class_key=row.class_key,
        start_slot=row.planned,
        stop_slot=row.planned + slots,
        state="pending",
    )


def take_tiles(session: Session, job: Job, tiles: Sequence[Tile]) -> None:
    """Link each class to its next shard; what was drawn before counts at once, what had failed is tried again."""
    session.add_all(tile.shard for tile in tiles)
    failed = [tile.shard.id for tile in tiles if tile.shard.state == "failed"]
    for tile in tiles:
        if tile.shard.state in ("failed", "dormant"):
            tile.shard.state, tile.shard.attempts, tile.shard.error = "pending", 0, None
    session.flush()
    if failed:
        count(session, failed)
    for row, shard, _ in tiles:
        stop_slot = min(shard.stop_slot, row.total)
        link = DatasetShard(job_id=job.id, shard_id=shard.id, position=row.position, take=stop_slot - shard.start_slot)
        session.add(link)
        row.planned = stop_slot
    session.flush()
    count(session, [tile.shard.id for tile in tiles if tile.shard.state == "done"], reused_by=job.id)
    planned = Job.planned_images + sum(tile.slots_to_draw for tile in tiles)
    session.execute(update(Job).where(Job.id == job.id).values(planned_images=planned))


def rest_unwanted(session: Session) -> None:
    """Put aside pending shards that no dataset needs any more; a later dataset wakes them up."""
    unwanted = (
        select(Shard.id).where(Shard.state == PENDING, ~wanted(by=GROWING)).order_by(Shard.id).limit(MOST_AT_ONCE)
    )
    shard_ids = session.scalars(unwanted.with_for_update(skip_locked=True)).all()
    # Asked again with the rows locked: another dispatcher may have linked a dataset to one just before.
    still = update(Shard).where(Shard.id.in_(shard_ids), ~wanted(by=GROWING)).values(state="dormant")
    session.execute(still.execution_options(synchronize_session=False))
