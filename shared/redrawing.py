"""Objects that were damaged after their shard was committed: drawn again, and named anew in the manifests."""

from collections.abc import Mapping

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.orm import Session

from .lifecycle import record
from .tables import ACTIVE, TERMINAL, DatasetShard, Job, JsonObject, Shard


def counted_damage() -> ColumnElement[bool]:
    """The linked shard was counted in the dataset, and must be drawn again whatever became of the dataset."""
    return and_(Shard.damage.is_not(None), DatasetShard.counted_done > 0)


def damaged(object_key: str | None, reason: str, *, is_lost: bool) -> JsonObject:
    return {"object_key": object_key, "reason": reason, "lost": is_lost}


def counting_jobs(session: Session, shard_id: int, states: tuple[str, ...]) -> list[str]:
    """Datasets that counted images of the shard."""
    query = (
        select(Job.id)
        .join(DatasetShard, DatasetShard.job_id == Job.id)
        .where(DatasetShard.shard_id == shard_id, DatasetShard.counted_done > 0, Job.state.in_(states))
    )
    return list(session.scalars(query.order_by(Job.id)).all())


def note_redrawn(session: Session, shard_id: int) -> None:
    """Manifests that name the old object are out of date; the dispatcher writes them anew."""
    session.execute(update(Shard).where(Shard.id == shard_id).values(damage=None))
    # One that is being written at this moment, as of a cancelled dataset, is then not taken.
    for job_id in counting_jobs(session, shard_id, ACTIVE):
        session.execute(update(Job).where(Job.id == job_id).values(version=Job.version + 1))
    for job_id in counting_jobs(session, shard_id, TERMINAL):
        session.execute(
            update(Job)
            .where(Job.id == job_id, Job.result.is_not(None))
            .values(is_manifest_stale=True, version=Job.version + 1)
        )


def note_lost(session: Session, damage: Mapping[int, str]) -> None:
    """Shards that could not be drawn again: datasets that ended keep their state, so this is what tells them."""
    for shard_id, reason in damage.items():
        object_key = session.scalar(select(Shard.object_key).where(Shard.id == shard_id))
        for job_id in counting_jobs(session, shard_id, TERMINAL):
            record(session, job_id, "damaged", damaged(object_key, reason, is_lost=True))


def note_damage(session: Session, shard_id: int, object_key: str, reason: str) -> None:
    """Live datasets hear of it; a new version keeps a manifest that is being written now from naming the object."""
    for job_id in counting_jobs(session, shard_id, ACTIVE):
        session.execute(update(Job).where(Job.id == job_id).values(version=Job.version + 1))
        record(session, job_id, "damaged", damaged(object_key, reason, is_lost=False))
