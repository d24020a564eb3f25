"""`/evaluations`: test a trained network on registered real images."""

import json
from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from shared.errors import Conflict, CorruptObject, NotFound, Rejected
from shared.realsets import benchmark
from shared.specs import EvaluationRequest, EvaluationSpec, TrainingSpec
from shared.storage import get_verified
from shared.tables import Job

from .dependencies import Cursor, JsonBody, PageSize, RequestKey, ServerDatabase, ServerSettings, ServerStore, TeamId
from .examples import EVALUATIONS
from .idempotency import ACCEPTED, Asking, accept_once
from .job_view import view_job
from .jobs import find_job, page_of_jobs
from .new_jobs import VERSION, add_job, usable_parents
from .problems import documented
from .schemas import EvaluationView, JobPage, JobState, JsonView

router = APIRouter(tags=["evaluations"])


@router.post(
    "/evaluations",
    status_code=202,
    response_model=None,
    dependencies=[JsonBody],
    responses=ACCEPTED | documented(400, 413, 415, 429),
)
def create_evaluation(
    request: Annotated[EvaluationRequest, Body(openapi_examples=EVALUATIONS)],
    settings: ServerSettings,
    database: ServerDatabase,
    team: TeamId,
    key: RequestKey,
) -> JSONResponse:
    """Test a network; it waits for a training that is not finished."""
    asking = Asking(team, "POST /evaluations", key, request.model_dump(mode="json"))
    return accept_once(database, settings, asking, lambda session: insert_evaluation(session, request, team))


def insert_evaluation(session: Session, request: EvaluationRequest, team: str) -> Job:
    parents = usable_parents(session, [request.training], kind="training", team=team, field="training")
    check_benchmarks(request, TrainingSpec.model_validate(parents[0].spec).class_ids)
    spec = EvaluationSpec(request=request, version=VERSION)
    return add_job(
        session,
        kind="evaluation",
        team=team,
        spec=spec.model_dump(mode="json"),
        total=len(request.benchmarks),
        priority=request.priority,
        parents=parents,
    )


def check_benchmarks(request: EvaluationRequest, class_ids: tuple[str, ...]) -> None:
    for position, name in enumerate(request.benchmarks):
        pointer = f"/benchmarks/{position}"
        unknown = sorted(set(benchmark(name).class_ids) - set(class_ids))
        if unknown:
            raise Rejected(
                f"training {request.training} never saw {unknown[0]}, a class of benchmark {name}; "
                "train on the benchmark's classes",
                pointer=pointer,
            )
        if name in request.benchmarks[:position]:
            raise Rejected(f"benchmark {name} is named twice", pointer=pointer)


@router.get("/evaluations", responses=documented())
def list_evaluations(
    database: ServerDatabase, team: TeamId, state: JobState | None = None, cursor: Cursor = None, limit: PageSize = 50
) -> JobPage:
    """Your evaluations, newest first."""
    with database.read() as session:
        return page_of_jobs(session, team, kind="evaluation", state=state, cursor=cursor, limit=limit)


@router.get("/evaluations/{evaluation_id}", responses=documented(404))
def get_evaluation(evaluation_id: str, database: ServerDatabase, team: TeamId) -> EvaluationView:
    """What was asked for and, once it succeeded, the result in short."""
    with database.read() as session:
        job = find_job(session, evaluation_id, team, kind="evaluation")
        links = {"job": f"/jobs/{job.id}", "report": f"/evaluations/{job.id}/report"}
        return EvaluationView(
            job=view_job(session, job), spec=EvaluationSpec.model_validate(job.spec), result=job.result, links=links
        )


@router.get("/evaluations/{evaluation_id}/report", responses=documented(404, 409))
def get_evaluation_report(evaluation_id: str, database: ServerDatabase, store: ServerStore, team: TeamId) -> JsonView:
    """The whole report: accuracies with intervals, per class, and the confusion matrix."""
    with database.read() as session:
        job = find_job(session, evaluation_id, team, kind="evaluation")
    if job.state != "succeeded" or job.result is None:
        raise Conflict(f"evaluation {job.id} is {job.state}; its report exists once it succeeded")
    try:
        data = get_verified(store, str(job.result["report_key"]), str(job.result["report_sha256"]))
    except (CorruptObject, NotFound) as damage:
        raise CorruptObject(
            f"the report of {job.id} is damaged ({damage.detail}); evaluate the training again"
        ) from damage
    report: JsonView = json.loads(data)
    return report
