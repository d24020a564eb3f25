"""A job row as users see it."""

from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.experiments import ExperimentSpec
from shared.probes import ProbeSpec
from shared.prompts import PromptSpec
from shared.specs import (
    TRAINED_SPEC,
    DatasetSpec,
    EvaluationRequest,
    EvaluationSpec,
    ImportedSpec,
    Recipe,
    TrainedSpec,
    name_sources,
)
from shared.tables import TERMINAL, DatasetClass, Event, Job, JsonObject

from .schemas import ClassCounts, Cost, Counts, ImagesRange, JobError, JobView

RATE_EVENTS = 20
RESOURCES = {
    "dataset": "datasets",
    "training": "trainings",
    "evaluation": "evaluations",
    "experiment": "experiments",
    "probe": "probes",
}
PROMPT_WORDS = {
    "name": "class name prompts",
    "hypernym": "class name and parent class prompts",
    "description": "class description prompts",
    "background": "prompts with varied backgrounds",
    "captions": "prompts from the given captions",
}


class DatasetFacts(BaseModel):
    """The part of a DatasetSpec that a job shows; the request beside it can hold 25,000 classes."""

    model: str
    recipe: Recipe
    class_count: int
    images_per_class: tuple[int, int]
    total_images: int


class Asked(NamedTuple):
    """What a dataset's spec says, spelled out."""

    summary: str
    guidance: float
    images_per_class: int | ImagesRange
    model: str


def view_job(session: Session, job: Job) -> JobView:
    """A constant number of rows and at most one count over the dataset's classes."""
    rate = measure_rate(session, job) if job.state == "running" else None
    facts = DatasetFacts.model_validate(job.spec) if job.kind == "dataset" else None
    asked = spell_out(facts) if facts else None
    return JobView(
        id=job.id,
        kind=job.kind,
        state=job.state,
        terminal=job.state in TERMINAL,
        summary=asked.summary if asked else describe(job),
        cancel_requested=job.cancel_requested,
        progress=progress(job),
        counts=Counts(total=job.total, done=job.done, rejected=job.rejected, failed=job.failed, reused=job.reused),
        classes=count_classes(session, job, facts) if facts else None,
        guidance=asked.guidance if asked else None,
        images_per_class=asked.images_per_class if asked else None,
        model=asked.model if asked else None,
        rate=rate,
        eta_seconds=round((job.total - job.done - job.failed) / rate, 1) if rate else None,
        error=JobError.model_validate(job.error) if job.error else None,
        cost=Cost(
            drawn_images=job.drawn_images, worker_seconds=round(job.spent_seconds, 3), stored_bytes=job.stored_bytes
        ),
        deadline=job.deadline,
        stop_reason=job.stop_reason,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        links=links(job),
    )


def progress(job: Job) -> float:
    if job.state == "succeeded":
        return 1.0
    return (job.done + job.failed) / job.total if job.total else 0.0


def spell_out(spec: DatasetFacts | DatasetSpec) -> Asked:
    smallest, largest = spec.images_per_class
    amount = smallest if smallest == largest else ImagesRange(smallest=smallest, largest=largest)
    guidance = spec.recipe.guidance
    classes = f"{spec.class_count:,} class{'' if spec.class_count == 1 else 'es'}"
    words = f"{classes}, {spec.total_images:,} images in all, {prompt_words(spec.recipe.prompt)}"
    words = f"{words}, guidance scale {guidance}, model {spec.model}"
    if spec.recipe.approximation is not None:
        words = f"{words}, {spec.recipe.approximation.label}"
    return Asked(words, guidance, amount, spec.model)


def prompt_words(prompt: PromptSpec) -> str:
    return f"prompts from the template {prompt.template!r}" if prompt.template else PROMPT_WORDS[prompt.kind]


def describe(job: Job) -> str:
    if job.kind == "training":
        return describe_training(TRAINED_SPEC.validate_python(job.spec))
    if job.kind == "experiment":
        return describe_experiment(ExperimentSpec.model_validate(job.spec))
    if job.kind == "probe":
        return describe_probe(ProbeSpec.model_validate(job.spec))
    return describe_evaluation(EvaluationSpec.model_validate(job.spec).request)


def describe_training(spec: TrainedSpec) -> str:
    if isinstance(spec, ImportedSpec):
        return f"{spec.architecture} trained elsewhere, imported as {spec.imported}"
    training = spec.request
    amount = f"{training.steps} steps" if training.steps else f"{training.epochs or 'the default'} epochs"
    return f"{training.architecture} for {amount} on {name_sources(training.datasets, training.real, training.shares)}"


def describe_evaluation(request: EvaluationRequest) -> str:
    tested = request.benchmarks + request.transfer
    uses = [f"tested on {', '.join(tested)}"] if tested else []
    if request.distances:
        pairs = ", ".join(f"{each.dataset} with {each.real}" for each in request.distances)
        uses.append(f"used to compare {pairs}")
    return f"{request.training} {' and '.join(uses)}"


def describe_probe(spec: ProbeSpec) -> str:
    asked = spec.request
    shares = ", ".join(f"{100 * share:g} %" for share in sorted(asked.shares))
    return f"{asked.dataset} probed with {shares} of its {counted(spec.images, 'image')} on {asked.benchmark}"


def describe_experiment(spec: ExperimentSpec) -> str:
    images = f"{counted(len(spec.datasets), 'dataset')} and {counted(len(spec.request.real), 'real set')}"
    tested = f"{counted(len(spec.arms), 'training')} tested on {', '.join(spec.request.benchmarks)}"
    return f"{spec.request.name}: {images}, {tested}"


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def count_classes(session: Session, job: Job, spec: DatasetFacts) -> ClassCounts:
    ended = job.done + job.failed
    # No class can be complete before as many images as the smallest class has.
    if ended < spec.images_per_class[0] or ended == job.total:
        return ClassCounts(total=spec.class_count, done=spec.class_count if ended == job.total else 0)
    complete = DatasetClass.done + DatasetClass.failed >= DatasetClass.total
    query = select(func.count()).select_from(DatasetClass).where(DatasetClass.job_id == job.id, complete)
    return ClassCounts(total=spec.class_count, done=session.scalar(query) or 0)


def measure_rate(session: Session, job: Job) -> float | None:
    """Counts per second between the oldest and newest of the last progress events; None until there are two."""
    query = (
        select(Event.at, Event.payload)
        .where(Event.job_id == job.id, Event.type == "progress")
        .order_by(Event.seq.desc())
        .limit(RATE_EVENTS)
    )
    points = [(at, done_in(payload)) for at, payload in session.execute(query)]
    return slope(points[-1], points[0]) if len(points) > 1 else None


def done_in(payload: JsonObject) -> int:
    done = payload["done"]
    assert isinstance(done, int)
    return done


def slope(oldest: tuple[datetime, int], newest: tuple[datetime, int]) -> float | None:
    seconds = (newest[0] - oldest[0]).total_seconds()
    gained = newest[1] - oldest[1]
    return round(gained / seconds, 3) if seconds > 0 and gained > 0 else None


def links(job: Job) -> dict[str, str]:
    base = f"/jobs/{job.id}"
    found = {"self": base, "events": f"{base}/events", job.kind: f"/{RESOURCES[job.kind]}/{job.id}"}
    if job.kind == "dataset":
        found["classes"] = f"{base}/classes"
    if job.state not in TERMINAL:
        found["cancel"] = f"{base}/cancel"
    elif job.state != "succeeded":
        found["retry"] = f"{base}/retry"
    return found
