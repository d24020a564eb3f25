"""The jobs of a new experiment: checked, and made in one transaction."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy.orm import Session

from shared.errors import Rejected
from shared.experiments import Arm, ExperimentDataset, ExperimentRequest, ExperimentSpec, Plan, PlannedArm, plan
from shared.lexicon import Lexicon
from shared.realsets import RealSet, training_set
from shared.settings import Settings
from shared.specs import EvaluationRequest
from shared.tables import Job

from . import accept
from .class_rows import class_texts
from .evaluations import insert_evaluation
from .experiment_parts import add_experiment
from .limits import Wanted
from .new_jobs import VERSION
from .trainings import difference, insert_training


class PlannedExperiment(NamedTuple):
    """Checked as far as that needs no database."""

    request: ExperimentRequest
    class_ids: tuple[str, ...]
    plan: Plan
    datasets: tuple[accept.Plan, ...]


def plan_experiment(
    request: ExperimentRequest, settings: Settings, lexicon: Lexicon, *, images_per_second: float
) -> PlannedExperiment:
    """Raises Rejected with a pointer to the value at fault."""
    planned = plan(request, images_per_second=images_per_second)
    datasets = tuple(plan_datasets(request, planned, settings, lexicon))
    class_ids = tuple(text.id for text in class_texts(request.classes, lexicon))
    return PlannedExperiment(request, class_ids, planned, datasets)


def plan_datasets(
    request: ExperimentRequest, planned: Plan, settings: Settings, lexicon: Lexicon
) -> Iterator[accept.Plan]:
    for dataset in planned.datasets:
        with pointing(f"/grids/{dataset.grid}", but=("/classes",)):
            found = accept.plan_dataset(request.dataset(dataset.cell), settings, lexicon)
        yield found


@contextmanager
def pointing(pointer: str, *, but: tuple[str, ...] = ()) -> Iterator[None]:
    """What is wrong with one job is wrong at this place of the experiment; pointers that begin like `but` stay."""
    try:
        yield
    except Rejected as error:
        if (error.pointer or "").startswith(but):
            raise
        raise Rejected(error.detail, pointer=pointer) from error


def wanted_by(planned: PlannedExperiment) -> Wanted:
    pairs = list(zip(planned.plan.datasets, planned.datasets, strict=True))
    return Wanted(
        images=max((dataset.images for dataset, _ in pairs), default=0),
        stored_bytes=sum(dataset.drawn * checked.bytes_per_image for dataset, checked in pairs),
        jobs=len(pairs) + 2 * len(planned.plan.arms) + 1,
    )


def refuse_other_classes(planned: PlannedExperiment, known: Mapping[str, RealSet]) -> None:
    """Networks of other classes are tested on other images; sets that are not known are passed over."""
    for position, name in enumerate(planned.request.real):
        if name in known and set(known[name].class_ids) != set(planned.class_ids):
            raise Rejected(
                f"{name} has other classes than the experiment ({difference(known[name].class_ids, planned.class_ids)})"
                f"; register a copy of these classes only: `synthclone testsets add --classes`",
                pointer=f"/real/{position}",
            )


def insert_experiment(session: Session, planned: PlannedExperiment, settings: Settings, team: str) -> Job:
    real = {}
    for position, name in enumerate(planned.request.real):
        with pointing(f"/real/{position}"):
            real[name] = training_set(session, name)
    refuse_other_classes(planned, real)
    datasets = tuple(
        ExperimentDataset(id=accept.insert_dataset(session, checked, team).id, cell=dataset.cell, images=dataset.images)
        for dataset, checked in zip(planned.plan.datasets, planned.datasets, strict=True)
    )
    arms = [insert_arm(session, planned.request, arm, datasets, settings, team) for arm in planned.plan.arms]
    spec = ExperimentSpec(request=planned.request, datasets=datasets, arms=tuple(arms), version=VERSION)
    return add_experiment(session, spec, team=team)


def insert_arm(
    session: Session,
    request: ExperimentRequest,
    arm: PlannedArm,
    datasets: Sequence[ExperimentDataset],
    settings: Settings,
    team: str,
) -> Arm:
    dataset = None if arm.dataset is None else datasets[arm.dataset].id
    training = request.recipes[arm.recipe].request(
        seed=arm.seed, priority=request.priority, datasets=[dataset] if dataset else (), real=arm.real
    )
    with pointing("/training" if request.training is not None else f"/trainings/{arm.recipe}"):
        training_id = insert_training(session, training, settings, team).id
    evaluation = EvaluationRequest(
        training=training_id,
        benchmarks=request.benchmarks,
        transfer=request.transfer,
        transfer_seeds=request.transfer_seeds,
        priority=request.priority,
    )
    with pointing("/benchmarks", but=("/benchmarks", "/transfer")):
        evaluation_id = insert_evaluation(session, evaluation, team).id
    return Arm(
        dataset=dataset,
        real=arm.real,
        recipe=arm.recipe,
        seed=arm.seed,
        training=training_id,
        evaluation=evaluation_id,
    )
