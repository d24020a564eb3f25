"""Lets a probe begin while its dataset is still being drawn, once the first images that it asks for are there."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared import lifecycle
from shared.probes import ProbeSpec, images_of
from shared.tables import DatasetClass, DatasetShard, Job, Shard

# What failed stays empty: the probe says so if too many images lack.
UNDRAWN = ("pending", "leased", "dormant")


def release_probes(session: Session) -> int:
    """Queues probes whose images are drawn; those of datasets that ended are released as other children are."""
    waiting = select(Job).where(Job.kind == "probe", Job.state == "waiting").order_by(Job.id)
    ready = 0
    for job in session.scalars(waiting).all():
        request = ProbeSpec.model_validate(job.spec).request
        if is_drawn(session, request.dataset, max(request.shares)):
            ready += lifecycle.transition(session, job.id, "queued")
    return ready


def is_drawn(session: Session, dataset: str, share: float) -> bool:
    """Every slot is done, or failed for good, that a dataset of this share would have."""
    undrawn = first_undrawn(session, dataset)
    query = select(DatasetClass.position, DatasetClass.total, DatasetClass.planned)
    return all(
        min(row.planned, undrawn.get(row.position, row.planned)) >= images_of(row.total, share)
        for row in session.execute(query.where(DatasetClass.job_id == dataset))
    )


def first_undrawn(session: Session, dataset: str) -> dict[int, int]:
    """By class, the first slot of the first planned shard still to be drawn; few shards are planned ahead."""
    query = (
        select(DatasetShard.position, func.min(Shard.start_slot))
        .join(Shard, Shard.id == DatasetShard.shard_id)
        .where(DatasetShard.job_id == dataset, Shard.state.in_(UNDRAWN))
        .group_by(DatasetShard.position)
    )
    return dict(session.execute(query).all())
