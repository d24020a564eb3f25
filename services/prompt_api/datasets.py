"""`/datasets`: ask for images of classes, and see what was asked for."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select

from shared.errors import Conflict
from shared.lexicon import load_lexicon
from shared.specs import DatasetRequest, DatasetSpec
from shared.tables import DatasetClass, Job, Team

from .accept import insert_dataset, plan_dataset, refuse_past_deadline
from .dependencies import Cursor, JsonBody, PageSize, RequestKey, ServerDatabase, ServerSettings, ServerStore, TeamId
from .examples import DATASETS
from .idempotency import ACCEPTED, Asking, accept_once
from .job_view import view_job
from .jobs import find_job, page_of_jobs
from .limits import refuse_beyond, wanted_by
from .preview import estimate
from .problems import documented
from .schemas import DatasetClassView, DatasetView, Estimate, JobPage, JobState, ManifestLink
from .stored_images import read_manifest

router = APIRouter(tags=["datasets"])
MANIFEST: dict[int | str, dict[str, object]] = {200: {"content": {"application/json": {"schema": {"type": "object"}}}}}
ESTIMATED: dict[int | str, dict[str, object]] = {
    200: {"model": Estimate, "description": "With dry_run: what the dataset would take; nothing was recorded."}
}


@router.post(
    "/datasets",
    status_code=202,
    response_model=None,
    dependencies=[JsonBody],
    responses=ESTIMATED | ACCEPTED | documented(400, 413, 415, 429),
)
def create_dataset(
    request: Annotated[DatasetRequest, Body(openapi_examples=DATASETS)],
    settings: ServerSettings,
    database: ServerDatabase,
    team: TeamId,
    key: RequestKey,
    dry_run: Annotated[bool, Query(description="Check and estimate only.")] = False,
) -> JSONResponse:
    """Have images of some classes drawn."""
    plan = plan_dataset(request, settings, load_lexicon(settings.lexicon_path))
    wanted = wanted_by(plan)
    if dry_run:
        with database.read() as session:
            refuse_past_deadline(session, request)
            refuse_beyond(session, session.get_one(Team, team), wanted, settings)
        return JSONResponse(estimate(plan).model_dump(mode="json"))
    asking = Asking(team, "POST /datasets", key, request.model_dump(mode="json"), wanted)
    return accept_once(database, settings, asking, lambda session: insert_dataset(session, plan, team))


@router.get("/datasets", responses=documented())
def list_datasets(
    database: ServerDatabase, team: TeamId, state: JobState | None = None, cursor: Cursor = None, limit: PageSize = 50
) -> JobPage:
    """Your datasets, newest first."""
    with database.read() as session:
        return page_of_jobs(session, team, kind="dataset", state=state, cursor=cursor, limit=limit)


@router.get("/datasets/{dataset_id}", responses=documented(404))
def get_dataset(dataset_id: str, database: ServerDatabase, team: TeamId) -> DatasetView:
    """What was asked for, with the classes in label order."""
    with database.read() as session:
        job = find_job(session, dataset_id, team, kind="dataset")
        query = select(DatasetClass).where(DatasetClass.job_id == job.id).order_by(DatasetClass.position)
        classes = [view_dataset_class(row) for row in session.scalars(query)]
        base = f"/datasets/{job.id}"
        return DatasetView(
            job=view_job(session, job),
            spec=DatasetSpec.model_validate(job.spec),
            classes=classes,
            manifest=manifest_link(job),
            links={"job": f"/jobs/{job.id}", "shards": f"{base}/shards", "samples": f"{base}/samples"},
        )


def view_dataset_class(row: DatasetClass) -> DatasetClassView:
    names = row.text["names"]
    assert isinstance(names, list)
    return DatasetClassView(label=row.position, id=row.class_id, names=[str(name) for name in names], total=row.total)


def manifest_link(job: Job) -> ManifestLink | None:
    if job.result is None:
        return None
    return ManifestLink.model_validate({**job.result, "url": f"/datasets/{job.id}/manifest"})


@router.get(
    "/datasets/{dataset_id}/manifest",
    response_class=Response,
    responses=MANIFEST | documented(404, 409),
)
def get_dataset_manifest(dataset_id: str, database: ServerDatabase, store: ServerStore, team: TeamId) -> Response:
    """Every object with its digest and the slots that the dataset takes of it, once the dataset ended."""
    with database.read() as session:
        job = find_job(session, dataset_id, team, kind="dataset")
    link = manifest_link(job)
    if link is None:
        raise Conflict(f"dataset {job.id} is {job.state} and has no manifest; it is written when the images are done")
    data = read_manifest(database, store, job.id, key=link.manifest_key, sha256=link.manifest_sha256)
    return Response(data, media_type="application/json")
