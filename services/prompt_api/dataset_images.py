"""The images of a dataset: its shard objects, samples of them, and any single one."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.errors import BeingRedrawn, NotFound
from shared.storage import ObjectStore
from shared.tables import DatasetClass, DatasetShard, Job, Shard

from .dependencies import PageSize, ServerDatabase, ServerStore, TeamId
from .jobs import find_job
from .problems import documented
from .schemas import SamplePage, SampleView, ShardPage, ShardView
from .stored_images import (
    ShardPart,
    find_class,
    find_part,
    finished_part,
    read_image,
    read_slots,
    read_whole,
    reporting,
    spread,
)

router = APIRouter(tags=["datasets"])
LINK_MINUTES = 15
TAR = "application/x-tar"
JPEG = "image/jpeg"
Number = Annotated[int, Path(ge=0, lt=2**31)]


def binary(media_type: str) -> dict[int | str, dict[str, object]]:
    return {200: {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}}


@router.get("/datasets/{dataset_id}/shards", responses=documented(404))
def list_dataset_shards(
    dataset_id: str,
    database: ServerDatabase,
    store: ServerStore,
    team: TeamId,
    cursor: Annotated[int, Query(ge=0, lt=2**63, description="next_cursor of the page before.")] = 0,
    limit: PageSize = 100,
) -> ShardPage:
    """The finished shard objects, each with a link that works for a quarter of an hour."""
    with database.read() as session:
        job = find_job(session, dataset_id, team, kind="dataset")
        query = (
            select(Shard, DatasetShard, DatasetClass.class_id)
            .join(DatasetShard, DatasetShard.shard_id == Shard.id)
            .join(
                DatasetClass,
                (DatasetClass.job_id == DatasetShard.job_id) & (DatasetClass.position == DatasetShard.position),
            )
            .where(DatasetShard.job_id == job.id, DatasetShard.shard_id >= cursor, Shard.state == "done")
            .order_by(DatasetShard.shard_id)
            .limit(limit + 1)
        )
        rows = session.execute(query).all()
    items = [view_shard(store, shard, link, class_id) for shard, link, class_id in rows[:limit]]
    return ShardPage(items=items, next_cursor=str(rows[limit][0].id) if len(rows) > limit else None)


def view_shard(store: ObjectStore, shard: Shard, link: DatasetShard, class_id: str) -> ShardView:
    assert shard.object_key is not None
    own = f"/datasets/{link.job_id}/shards/{shard.id}/tar"
    return ShardView(
        id=shard.id,
        key=shard.object_key,
        bytes=shard.size_bytes or 0,
        sha256=shard.sha256 or "",
        class_id=class_id,
        label=link.position,
        start=shard.start_slot,
        stop=shard.stop_slot,
        take=link.take,
        url=store.link(shard.object_key, minutes=LINK_MINUTES) or own,
    )


@router.get(
    "/datasets/{dataset_id}/shards/{shard_id}/tar",
    response_class=Response,
    responses=binary(TAR) | documented(404, 409),
)
def get_dataset_shard(
    dataset_id: str,
    shard_id: Annotated[int, Path(ge=0, lt=2**63)],
    database: ServerDatabase,
    store: ServerStore,
    team: TeamId,
) -> Response:
    """One shard's WebDataset tar, checked against its digest before the first byte is sent."""
    with database.read() as session:
        job = find_job(session, dataset_id, team, kind="dataset")
        query = select(Shard, DatasetShard.take).join(DatasetShard, DatasetShard.shard_id == Shard.id)
        found = session.execute(query.where(DatasetShard.job_id == job.id, Shard.id == shard_id)).one_or_none()
        part = finished_part(found.Shard, take=found.take) if found is not None else None
    if part is None:
        raise NotFound(f"dataset {job.id} has no finished shard {shard_id}; GET /datasets/{job.id}/shards lists them")
    with reporting(database, store, part):
        return Response(read_whole(store, part.key, part.sha256), media_type=TAR)


@router.get("/datasets/{dataset_id}/samples", responses=documented(404, 409))
def list_dataset_samples(
    dataset_id: str,
    database: ServerDatabase,
    store: ServerStore,
    team: TeamId,
    limit: Annotated[int, Query(ge=1, le=100, description="Samples in all.")] = 20,
) -> SamplePage:
    """Some accepted images with what they were drawn from, spread over the classes."""
    with database.read() as session:
        job = find_job(session, dataset_id, team, kind="dataset")
        classes = sampled_classes(session, job, limit)
        parts = [(row, sampled_part(session, job, row)) for row in classes]
    each = -(-limit // len(classes))
    samples: list[SampleView] = []
    for row, part in parts:
        if part is not None:
            with reporting(database, store, part):
                slots = read_slots(store, part)[:each]
                samples += [view_sample(store, job.id, row, part, slot) for slot in slots]
    return SamplePage(items=samples[:limit])


def sampled_classes(session: Session, job: Job, limit: int) -> list[DatasetClass]:
    of_job = DatasetClass.job_id == job.id
    count = session.scalar(select(func.count()).select_from(DatasetClass).where(of_job)) or 0
    query = select(DatasetClass).where(of_job, DatasetClass.position.in_(spread(limit, count)))
    return list(session.scalars(query.order_by(DatasetClass.position)).all())


def sampled_part(session: Session, job: Job, row: DatasetClass) -> ShardPart | None:
    try:
        return find_part(session, job, row, slot=0)
    except BeingRedrawn:
        return None  # the other classes can be shown


def view_sample(store: ObjectStore, dataset_id: str, row: DatasetClass, part: ShardPart, slot: int) -> SampleView:
    return SampleView(
        class_id=row.class_id,
        label=row.position,
        slot=slot,
        url=f"/datasets/{dataset_id}/images/{row.class_id}/{slot}",
        metadata=read_image(store, part.key, slot).metadata,
    )


@router.get(
    "/datasets/{dataset_id}/images/{class_id}/{slot}",
    response_class=Response,
    responses=binary(JPEG) | documented(404, 409),
)
def get_dataset_image(
    dataset_id: str, class_id: str, slot: Number, database: ServerDatabase, store: ServerStore, team: TeamId
) -> Response:
    """One image as it was accepted."""
    with database.read() as session:
        job = find_job(session, dataset_id, team, kind="dataset")
        part = find_part(session, job, find_class(session, job, class_id), slot=slot)
    if part is None:
        raise NotFound(f"image {slot} of class {class_id} is not drawn, or not in dataset {job.id}")
    with reporting(database, store, part):
        image = read_image(store, part.key, slot)
    # An accepted image never changes.
    return Response(image.jpeg, media_type=JPEG, headers={"Cache-Control": "private, max-age=31536000, immutable"})
