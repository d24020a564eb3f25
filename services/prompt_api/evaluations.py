"""`/evaluations`: test a trained network on registered real images."""

import json
from typing import Annotated

from fastapi import APIRouter, Body, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from shared.errors import Rejected
from shared.realsets import benchmark, transfer_set
from shared.specs import TRAINED_SPEC, EvaluationRequest, EvaluationSpec
from shared.tables import Job

from .compared_sets import check_distances
from .dependencies import Cursor, JsonBody, PageSize, RequestKey, ServerDatabase, ServerSettings, ServerStore, TeamId
from .examples import EVALUATIONS
from .idempotency import ACCEPTED, Asking, accept_once
from .job_view import view_job
from .jobs import find_job, page_of_jobs
from .new_jobs import VERSION, add_job, usable_parents
from .paired_evaluations import check_compared
from .problems import documented
from .report_files import FILE, FileName, answer_file, file_links, file_names, read_file, reported
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
    """Test a network; it waits for a training, and for datasets and evaluations to compare, that are not finished."""
    asking = Asking(team, "POST /evaluations", key, request.model_dump(mode="json"))
    return accept_once(database, settings, asking, lambda session: insert_evaluation(session, request, team))


def insert_evaluation(session: Session, request: EvaluationRequest, team: str) -> Job:
    parents = usable_parents(session, [request.training], kind="training", team=team, field="training")
    compared = [each.dataset for each in request.distances]
    datasets = usable_parents(session, compared, kind="dataset", team=team, field="distances")
    check_distances(session, request.distances, datasets)
    for position, name in enumerate(request.transfer):
        transfer_set(session, name, pointer=f"/transfer/{position}")
    class_ids = TRAINED_SPEC.validate_python(parents[0].spec).class_ids
    check_benchmarks(session, request, class_ids)
    others = usable_parents(session, request.compare_with, kind="evaluation", team=team, field="compare_with")
    check_compared(session, request, class_ids, others)
    spec = EvaluationSpec(request=request, version=VERSION)
    return add_job(
        session,
        kind="evaluation",
        team=team,
        spec=spec.model_dump(mode="json"),
        total=request.parts,
        priority=request.priority,
        # One of the datasets may be compared with several sets.
        parents=list({parent.id: parent for parent in (*parents, *datasets, *others)}.values()),
    )


def check_benchmarks(session: Session, request: EvaluationRequest, class_ids: tuple[str, ...]) -> None:
    for position, name in enumerate(request.benchmarks):
        pointer = f"/benchmarks/{position}"
        if not set(benchmark(session, name, pointer=pointer).class_ids) & set(class_ids):
            raise Rejected(
                f"training {request.training} never saw a class of benchmark {name}; train on some of its classes",
                pointer=pointer,
            )


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
        base, files = f"/evaluations/{job.id}", file_names(job.result)
        return EvaluationView(
            job=view_job(session, job),
            spec=EvaluationSpec.model_validate(job.spec),
            files=files,
            result=job.result,
            links={"job": f"/jobs/{job.id}", "report": f"{base}/report"} | file_links(base, files),
        )


@router.get("/evaluations/{evaluation_id}/report", responses=documented(404, 409))
def get_evaluation_report(evaluation_id: str, database: ServerDatabase, store: ServerStore, team: TeamId) -> JsonView:
    """The whole report: accuracies with intervals, per class, the confusion matrix, and comparisons."""
    with database.read() as session:
        job = reported(find_job(session, evaluation_id, team, kind="evaluation"))
    report: JsonView = json.loads(read_file(store, job, "report"))
    return report


@router.get(
    "/evaluations/{evaluation_id}/files/{file}",
    response_class=Response,
    responses=FILE | documented(404, 409),
)
def get_evaluation_file(
    evaluation_id: str, file: FileName, database: ServerDatabase, store: ServerStore, team: TeamId
) -> Response:
    """The report to read, or its figure."""
    with database.read() as session:
        job = reported(find_job(session, evaluation_id, team, kind="evaluation"))
    return answer_file(store, job, file)
