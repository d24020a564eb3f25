"""`/trainings`: train a network on datasets, or on registered real images."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.errors import Rejected
from shared.lexicon import Lexicon, load_lexicon
from shared.realsets import training_set
from shared.recipes import check_architecture_name
from shared.settings import Settings
from shared.specs import TRAINED_SPEC, TrainingRequest, TrainingSpec
from shared.tables import DatasetClass, Job, Metric

from .dependencies import Cursor, JsonBody, PageSize, RequestKey, ServerDatabase, ServerSettings, TeamId
from .examples import TRAININGS
from .idempotency import ACCEPTED, Asking, accept_once
from .job_view import view_job
from .jobs import find_job, first_name, page_of_jobs
from .new_jobs import VERSION, add_job, usable_parents
from .problems import documented
from .schemas import JobPage, JobState, MetricPage, MetricPoint, TrainingView

router = APIRouter(tags=["trainings"])


class Classes(NamedTuple):
    """Ids and names in label order."""

    ids: tuple[str, ...]
    names: tuple[str, ...]


@router.post(
    "/trainings",
    status_code=202,
    response_model=None,
    dependencies=[JsonBody],
    responses=ACCEPTED | documented(400, 413, 415, 429),
)
def create_training(
    request: Annotated[TrainingRequest, Body(openapi_examples=TRAININGS)],
    settings: ServerSettings,
    database: ServerDatabase,
    team: TeamId,
    key: RequestKey,
) -> JSONResponse:
    """Train a network; it waits for datasets that are not finished."""
    asking = Asking(team, "POST /trainings", key, request.model_dump(mode="json"))
    return accept_once(database, settings, asking, lambda session: insert_training(session, request, settings, team))


def insert_training(session: Session, request: TrainingRequest, settings: Settings, team: str) -> Job:
    check_architecture_name(request.architecture)
    parents = usable_parents(session, request.datasets, kind="dataset", team=team, field="datasets")
    known = real_classes(session, request.real, load_lexicon(settings.lexicon_path)) if request.real else None
    drawn = common_classes(session, parents) if parents else None
    if known and drawn and set(known.ids) != set(drawn.ids):
        raise Rejected(
            f"{request.real} has other classes than {parents[0].id} ({difference(known.ids, drawn.ids)}); "
            "mix sets of the same classes",
            pointer="/real",
        )
    classes = drawn or known
    assert classes is not None, "the request was checked to have a source"
    spec = TrainingSpec(
        request=request,
        recipe=request.resolved_recipe(),
        class_ids=classes.ids,
        class_names=classes.names,
        version=VERSION,
    )
    return add_job(
        session,
        kind="training",
        team=team,
        spec=spec.model_dump(mode="json"),
        total=request.steps or 0,
        priority=request.priority,
        parents=parents,
    )


def real_classes(session: Session, name: str, lexicon: Lexicon) -> Classes:
    """A set's own class names where they are no WordNet ids."""
    ids = training_set(session, name).class_ids
    return Classes(ids, tuple(lexicon.entry(each).names[0] if each in lexicon else each for each in ids))


def common_classes(session: Session, datasets: Sequence[Job]) -> Classes:
    first, *others = [classes_of(session, dataset.id) for dataset in datasets]
    for position, other in enumerate(others, start=1):
        if other.ids != first.ids:
            raise Rejected(
                f"dataset {datasets[position].id} has other classes than {datasets[0].id} "
                f"({difference(other.ids, first.ids)}); train on datasets of the same class list",
                pointer=f"/datasets/{position}",
            )
    return first


def classes_of(session: Session, dataset_id: str) -> Classes:
    query = select(DatasetClass).where(DatasetClass.job_id == dataset_id).order_by(DatasetClass.position)
    rows = session.scalars(query).all()
    return Classes(tuple(row.class_id for row in rows), tuple(first_name(row) for row in rows))


def difference(ids: Sequence[str], expected: Sequence[str]) -> str:
    odd = sorted(set(ids) ^ set(expected))
    if not odd:
        return "the same in another order"
    return f"{', '.join(odd[:3])}{' and more' if len(odd) > 3 else ''} in one only"


@router.get("/trainings", responses=documented())
def list_trainings(
    database: ServerDatabase, team: TeamId, state: JobState | None = None, cursor: Cursor = None, limit: PageSize = 50
) -> JobPage:
    """Your trainings, newest first."""
    with database.read() as session:
        return page_of_jobs(session, team, kind="training", state=state, cursor=cursor, limit=limit)


@router.get("/trainings/{training_id}", responses=documented(404))
def get_training(training_id: str, database: ServerDatabase, team: TeamId) -> TrainingView:
    """What was asked for and, once it succeeded, where the encoder is."""
    with database.read() as session:
        job = find_job(session, training_id, team, kind="training")
        links = {"job": f"/jobs/{job.id}", "metrics": f"/trainings/{job.id}/metrics"}
        return TrainingView(
            job=view_job(session, job), spec=TRAINED_SPEC.validate_python(job.spec), result=job.result, links=links
        )


@router.get("/trainings/{training_id}/metrics", responses=documented(404))
def list_training_metrics(
    training_id: str,
    database: ServerDatabase,
    team: TeamId,
    cursor: Annotated[int, Query(ge=0, lt=2**31, description="next_cursor of the page before: a step.")] = 0,
    limit: PageSize = 500,
) -> MetricPage:
    """The training curves, in step order; `limit` counts steps."""
    with database.read() as session:
        job = find_job(session, training_id, team, kind="training")
        of_job = (Metric.job_id == job.id, Metric.step >= cursor)
        steps = session.scalars(select(Metric.step).where(*of_job).distinct().order_by(Metric.step).limit(limit + 1))
        found = steps.all()
        if not found:
            return MetricPage(items=[], next_cursor=None)
        upto = Metric.step <= found[:limit][-1]
        rows = session.scalars(select(Metric).where(*of_job, upto).order_by(Metric.step, Metric.name)).all()
        items = [MetricPoint(name=row.name, step=row.step, value=row.value) for row in rows]
        return MetricPage(items=items, next_cursor=str(found[limit]) if len(found) > limit else None)
