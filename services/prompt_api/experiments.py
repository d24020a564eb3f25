"""`/experiments`: whole grids of datasets, trainings and evaluations from one request to one report."""

import json
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import JSONResponse

from shared.experiment_estimate import ExperimentEstimate, estimate_experiment
from shared.experiments import ExperimentRequest
from shared.lexicon import load_lexicon
from shared.realsets import registered_sets
from shared.tables import Team

from .dependencies import Cursor, JsonBody, PageSize, RequestKey, ServerDatabase, ServerSettings, ServerStore, TeamId
from .examples import EXPERIMENTS
from .experiment_jobs import insert_experiment, plan_experiment, refuse_other_classes, wanted_by
from .experiment_views import ExperimentView, view_experiment
from .idempotency import ACCEPTED, Asking, accept_once
from .jobs import find_job, page_of_jobs
from .limits import refuse_beyond
from .problems import documented
from .report_files import FILE, FileName, answer_file, read_file, reported
from .schemas import JobPage, JobState, JsonView

router = APIRouter(tags=["experiments"])
ESTIMATED: dict[int | str, dict[str, object]] = {
    200: {"model": ExperimentEstimate, "description": "With dry_run: what it would take; nothing was recorded."}
}


@router.post(
    "/experiments",
    status_code=202,
    response_model=None,
    dependencies=[JsonBody],
    responses=ESTIMATED | ACCEPTED | documented(400, 413, 415, 429),
)
def create_experiment(
    request: Annotated[ExperimentRequest, Body(openapi_examples=EXPERIMENTS)],
    settings: ServerSettings,
    database: ServerDatabase,
    team: TeamId,
    key: RequestKey,
    dry_run: Annotated[bool, Query(description="Check and estimate only; real sets need not be registered.")] = False,
    images_per_second: Annotated[
        float | None, Query(ge=1e-6, le=1e6, description="What one GPU draws, for the estimate.", allow_inf_nan=False)
    ] = None,
) -> JSONResponse:
    """Have all datasets of some grids drawn, networks trained on each and on real images, and all of them tested."""
    with database.read() as session:
        real_sets = registered_sets(session)
    roles = {known.name: known.role for known in real_sets.values()}
    estimated = estimate_experiment(request, settings, real_sets=roles, images_per_second=images_per_second)
    planned = plan_experiment(
        request, settings, load_lexicon(settings.lexicon_path), images_per_second=estimated.images_per_second
    )
    wanted = wanted_by(planned)
    if dry_run:
        refuse_other_classes(planned, real_sets)
        with database.read() as session:
            refuse_beyond(session, session.get_one(Team, team), wanted, settings)
        return JSONResponse(estimated.model_dump(mode="json"))
    asking = Asking(team, "POST /experiments", key, request.model_dump(mode="json"), wanted)
    return accept_once(database, settings, asking, lambda session: insert_experiment(session, planned, settings, team))


@router.get("/experiments", responses=documented())
def list_experiments(
    database: ServerDatabase, team: TeamId, state: JobState | None = None, cursor: Cursor = None, limit: PageSize = 50
) -> JobPage:
    """Your experiments, newest first."""
    with database.read() as session:
        return page_of_jobs(session, team, kind="experiment", state=state, cursor=cursor, limit=limit)


@router.get("/experiments/{experiment_id}", responses=documented(404))
def get_experiment(experiment_id: str, database: ServerDatabase, team: TeamId) -> ExperimentView:
    """What was asked for, every training with the states of its jobs and, once there is one, the report's files."""
    with database.read() as session:
        return view_experiment(session, find_job(session, experiment_id, team, kind="experiment"))


@router.get("/experiments/{experiment_id}/report", responses=documented(404, 409))
def get_experiment_report(experiment_id: str, database: ServerDatabase, store: ServerStore, team: TeamId) -> JsonView:
    """The numbers: top-1 per training set, test set and seed, with means, deviations and published values."""
    with database.read() as session:
        job = reported(find_job(session, experiment_id, team, kind="experiment"))
    report: JsonView = json.loads(read_file(store, job, "report"))
    return report


@router.get(
    "/experiments/{experiment_id}/files/{file}",
    response_class=Response,
    responses=FILE | documented(404, 409),
)
def get_experiment_file(
    experiment_id: str,
    file: FileName,
    database: ServerDatabase,
    store: ServerStore,
    team: TeamId,
) -> Response:
    """The report to read, or one of its figures."""
    with database.read() as session:
        job = reported(find_job(session, experiment_id, team, kind="experiment"))
    return answer_file(store, job, file)
