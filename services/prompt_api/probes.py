"""`/probes`: predict what a dataset is worth from its first images, before all of it is drawn."""

import json
from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.errors import Rejected
from shared.probes import ARCHITECTURE, MOST_SIDE, ProbeRequest, ProbeSpec, images_of, recipe_for, size_of, steps_for
from shared.realsets import benchmark
from shared.tables import DatasetClass, Job

from .dependencies import Cursor, JsonBody, PageSize, RequestKey, ServerDatabase, ServerSettings, ServerStore, TeamId
from .examples import PROBES
from .idempotency import ACCEPTED, Asking, accept_once
from .job_view import DatasetFacts, view_job
from .jobs import find_job, page_of_jobs
from .new_jobs import VERSION, add_job, usable_parents
from .problems import documented
from .report_files import read_file, reported
from .schemas import JobPage, JobState, JsonView, ProbeView
from .trainings import classes_of

router = APIRouter(tags=["probes"])
# Of the largest share by the smallest: points close together carry no line ten times further.
LEAST_SPAN = 2


@router.post(
    "/probes",
    status_code=202,
    response_model=None,
    dependencies=[JsonBody],
    responses=ACCEPTED | documented(400, 413, 415, 429),
)
def create_probe(
    request: Annotated[ProbeRequest, Body(openapi_examples=PROBES)],
    settings: ServerSettings,
    database: ServerDatabase,
    team: TeamId,
    key: RequestKey,
) -> JSONResponse:
    """Train small networks on a dataset's first images and predict their accuracy on all; it waits for those images."""
    asking = Asking(team, "POST /probes", key, request.model_dump(mode="json"))
    return accept_once(database, settings, asking, lambda session: insert_probe(session, request, team))


def insert_probe(session: Session, request: ProbeRequest, team: str) -> Job:
    parents = usable_parents(session, [request.dataset], kind="dataset", team=team, field="dataset")
    spec = make_spec(session, request, parents[0])
    return add_job(
        session,
        kind="probe",
        team=team,
        spec=spec.model_dump(mode="json"),
        total=len(request.shares) * request.repeats,
        priority=request.priority,
        parents=parents,
    )


def make_spec(session: Session, request: ProbeRequest, dataset: Job) -> ProbeSpec:
    facts, classes = DatasetFacts.model_validate(dataset.spec), classes_of(session, dataset.id)
    check_benchmark(session, request, classes.ids)
    steps = steps_for(facts.total_images)
    return ProbeSpec(
        request=request,
        class_ids=classes.ids,
        class_names=classes.names,
        images=facts.total_images,
        sizes=checked_sizes(session, request),
        architecture=ARCHITECTURE,
        image_size=min(facts.recipe.width, facts.recipe.height, MOST_SIDE),
        steps=steps,
        recipe=recipe_for(steps),
        version=VERSION,
    )


def check_benchmark(session: Session, request: ProbeRequest, class_ids: tuple[str, ...]) -> None:
    if not set(benchmark(session, request.benchmark, pointer="/benchmark").class_ids) & set(class_ids):
        raise Rejected(
            f"dataset {request.dataset} has no class of benchmark {request.benchmark}; name a test set of its classes",
            pointer="/benchmark",
        )


def checked_sizes(session: Session, request: ProbeRequest) -> tuple[int, ...]:
    """Images of each share; raises Rejected where they are too few or too alike to fit a curve."""
    query = select(DatasetClass.class_id, DatasetClass.total).where(DatasetClass.job_id == request.dataset)
    totals = dict(session.execute(query).all())
    fewest = min(totals.values())
    for position, share in enumerate(request.shares):
        if images_of(fewest, share) == 0:
            raise Rejected(
                f"share {share:g} of {fewest:,} images, the fewest of a class, is no image; give at least "
                f"{1 / fewest:.2g}, or probe a larger dataset",
                pointer=f"/shares/{position}",
            )
    sizes = tuple(size_of(totals, share) for share in request.shares)
    if len(set(sizes)) < len(sizes) or max(sizes) < LEAST_SPAN * min(sizes):
        raise Rejected(
            f"shares {list(request.shares)} are {', '.join(f'{size:,}' for size in sizes)} images; they must all "
            f"differ, and the largest be {LEAST_SPAN} times the smallest",
            pointer="/shares",
        )
    return sizes


@router.get("/probes", responses=documented())
def list_probes(
    database: ServerDatabase, team: TeamId, state: JobState | None = None, cursor: Cursor = None, limit: PageSize = 50
) -> JobPage:
    """Your probes, newest first."""
    with database.read() as session:
        return page_of_jobs(session, team, kind="probe", state=state, cursor=cursor, limit=limit)


@router.get("/probes/{probe_id}", responses=documented(404))
def get_probe(probe_id: str, database: ServerDatabase, team: TeamId) -> ProbeView:
    """What was asked for, the network it is asked of and, once it succeeded, the prediction."""
    with database.read() as session:
        job = find_job(session, probe_id, team, kind="probe")
        links = {"job": f"/jobs/{job.id}", "report": f"/probes/{job.id}/report"}
        return ProbeView(
            job=view_job(session, job), spec=ProbeSpec.model_validate(job.spec), result=job.result, links=links
        )


@router.get("/probes/{probe_id}/report", responses=documented(404, 409))
def get_probe_report(probe_id: str, database: ServerDatabase, store: ServerStore, team: TeamId) -> JsonView:
    """Every network's accuracy, the curve through them, and the predicted accuracy with its interval."""
    with database.read() as session:
        job = reported(find_job(session, probe_id, team, kind="probe"))
    report: JsonView = json.loads(read_file(store, job, "report"))
    return report
