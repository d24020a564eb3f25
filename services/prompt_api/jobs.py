"""`/jobs`: every piece of work, whatever its kind."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared import lifecycle
from shared.errors import NotFound
from shared.job_leases import TIME_PART
from shared.tables import TERMINAL, DatasetClass, Job

from .dependencies import Cursor, PageSize, RequestKey, ServerDatabase, ServerSettings, TeamId
from .examples import JOBS
from .experiment_parts import cancel_parts, retry_experiment, wanted_by_retry
from .idempotency import ACCEPTED, RETRY_AFTER_SECONDS, Asking, accept_once
from .job_view import view_job
from .new_jobs import add_retry
from .problems import documented
from .schemas import ClassProgress, ClassProgressPage, JobKind, JobPage, JobState, JobView

router = APIRouter(tags=["jobs"])
SHOWN: Mapping[int | str, dict[str, object]] = {200: {"content": {"application/json": {"examples": JOBS}}}}
UNCHANGED: Mapping[int | str, dict[str, object]] = {304: {"description": "Nothing has changed since your ETag."}}


def find_job(session: Session, job_id: str, team: str, *, kind: str | None = None) -> Job:
    """Raises NotFound also for another team's job."""
    job = session.scalars(select(Job).where(Job.id == job_id, Job.team_id == team)).one_or_none()
    if job is None or kind not in (None, job.kind):
        raise NotFound(f"there is no {kind or 'job'} {job_id!r}; GET /jobs lists yours")
    return job


def page_of_jobs(
    session: Session, team: str, *, kind: JobKind | None, state: JobState | None, cursor: str | None, limit: int
) -> JobPage:
    """Newest first."""
    query = select(Job).where(Job.team_id == team).order_by(TIME_PART.desc()).limit(limit + 1)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if state is not None:
        query = query.where(Job.state == state)
    if cursor is not None:
        query = query.where(cursor > TIME_PART)
    jobs = session.scalars(query).all()
    next_cursor = jobs[limit - 1].id[3:] if len(jobs) > limit else None
    return JobPage(items=[view_job(session, job) for job in jobs[:limit]], next_cursor=next_cursor)


@router.get("/jobs", responses=documented())
def list_jobs(
    database: ServerDatabase,
    team: TeamId,
    kind: JobKind | None = None,
    state: JobState | None = None,
    cursor: Cursor = None,
    limit: PageSize = 50,
) -> JobPage:
    """Your jobs, newest first."""
    with database.read() as session:
        return page_of_jobs(session, team, kind=kind, state=state, cursor=cursor, limit=limit)


@router.get("/jobs/{job_id}", responses={**SHOWN, **UNCHANGED, **documented(404)}, response_model=JobView)
def get_job(
    job_id: str,
    database: ServerDatabase,
    team: TeamId,
    response: Response,
    if_none_match: Annotated[str | None, Header(description="The ETag you have.")] = None,
) -> JobView | Response:
    """One job, with 200 in every state: a failed job is no failed request."""
    with database.read() as session:
        job = find_job(session, job_id, team)
        headers = {"ETag": f'W/"{job.version}"'}
        if job.state not in TERMINAL:
            headers["Retry-After"] = RETRY_AFTER_SECONDS
        if matches(if_none_match, job.version):
            return Response(status_code=304, headers=headers)
        response.headers.update(headers)
        return view_job(session, job)


def matches(if_none_match: str | None, version: int) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return f'"{version}"' in tags or "*" in tags


@router.get("/jobs/{job_id}/classes", responses=documented(404))
def list_job_classes(
    job_id: str,
    database: ServerDatabase,
    team: TeamId,
    cursor: Annotated[int, Query(ge=0, lt=2**31, description="next_cursor of the page before.")] = 0,
    limit: PageSize = 100,
) -> ClassProgressPage:
    """How far each class of a dataset is, in label order."""
    with database.read() as session:
        job = find_job(session, job_id, team, kind="dataset")
        rows = session.scalars(
            select(DatasetClass)
            .where(DatasetClass.job_id == job.id, DatasetClass.position >= cursor)
            .order_by(DatasetClass.position)
            .limit(limit + 1)
        ).all()
        next_cursor = str(rows[limit].position) if len(rows) > limit else None
        return ClassProgressPage(items=[view_class(row) for row in rows[:limit]], next_cursor=next_cursor)


def view_class(row: DatasetClass) -> ClassProgress:
    return ClassProgress(
        label=row.position,
        id=row.class_id,
        name=first_name(row),
        total=row.total,
        done=row.done,
        failed=row.failed,
        rejected=row.rejected,
    )


def first_name(row: DatasetClass) -> str:
    names = row.text["names"]
    assert isinstance(names, list)
    return str(names[0])


@router.post("/jobs/{job_id}/cancel", status_code=202, responses=documented(404, 409))
def cancel_job(job_id: str, database: ServerDatabase, team: TeamId) -> JobView:
    """Stop a job within a batch, an experiment with all its jobs; what is finished stays."""
    with database.write() as session:
        job = find_job(session, job_id, team)
        session.refresh(job, with_for_update=True)
        lifecycle.request_cancel(session, job)
        if job.kind == "experiment":
            cancel_parts(session, job)
        session.refresh(job)
        return view_job(session, job)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    response_model=None,
    responses=ACCEPTED | documented(404, 409, 429),
)
def retry_job(
    job_id: str, settings: ServerSettings, database: ServerDatabase, team: TeamId, key: RequestKey
) -> JSONResponse:
    """Ask for the same work again, as a new job; images that exist are reused, and so are an experiment's results."""
    with database.read() as session:
        wanted = wanted_by_retry(session, find_job(session, job_id, team), settings)
    asking = Asking(team, "POST /jobs/retry", key, {"job": job_id}, wanted, retry_of=job_id)
    return accept_once(database, settings, asking, lambda session: make_again(session, session.get_one(Job, job_id)))


def make_again(session: Session, old: Job) -> Job:
    return retry_experiment(session, old) if old.kind == "experiment" else add_retry(session, old)
