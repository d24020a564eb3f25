"""What an experiment's report is made of, read from its jobs and the reports of its evaluations."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.database import Database
from shared.experiments import Arm, ExperimentDataset, ExperimentSpec
from shared.recipes import TrainingRecipe
from shared.specs import TrainingSpec
from shared.storage import ObjectStore, get_verified
from shared.tables import Job, JsonObject

from .trained import read_dataset


class BenchmarkScore(BaseModel):
    """What is read of an evaluation's report; linear classifiers' scores have no `crop_pct`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    kind: str | None = None  # of a set that is built in or of the user's own
    images: int
    crop_pct: float | None
    top1: float


class TransferScore(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    kind: str
    test_images: int
    top1: float

    def as_test(self) -> BenchmarkScore:
        return BenchmarkScore(name=self.name, kind=self.kind, images=self.test_images, crop_pct=None, top1=self.top1)


class EvaluationScores(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    benchmarks: tuple[BenchmarkScore, ...]
    transfer: tuple[TransferScore, ...] = ()


class Ended(NamedTuple):
    """What is read of a job that belongs to the experiment."""

    id: str
    state: str
    done: int
    result: JsonObject | None
    error: JsonObject | None


class Tested(NamedTuple):
    arm: Arm
    images: int
    tests: Mapping[str, BenchmarkScore]


class Experiment(NamedTuple):
    """All that its report is made of; `recipes` are those frozen with the trainings."""

    spec: ExperimentSpec
    ended: Mapping[str, Ended]
    recipes: Mapping[str, TrainingRecipe]
    tested: Sequence[Tested]

    def is_partial(self, dataset: ExperimentDataset) -> bool:
        return self.ended[dataset.id].state == "partial"


def read_spec(session: Session, experiment: str) -> ExperimentSpec:
    """With the approximations that the datasets were drawn by: a distilled model's is in their recipes alone."""
    spec = ExperimentSpec.model_validate(session.get_one(Job, experiment).spec)
    return spec.model_copy(update={"datasets": tuple(as_drawn(session, dataset) for dataset in spec.datasets)})


def as_drawn(session: Session, dataset: ExperimentDataset) -> ExperimentDataset:
    recipe = read_dataset(session, dataset.id).recipe
    return dataset.model_copy(update={"cell": dataset.cell.model_copy(update={"approximation": recipe.approximation})})


def read_ended(database: Database, spec: ExperimentSpec) -> Mapping[str, Ended]:
    ids = [dataset.id for dataset in spec.datasets]
    ids += [job_id for arm in spec.arms for job_id in (arm.training, arm.evaluation)]
    query = select(Job.id, Job.state, Job.done, Job.result, Job.error).where(Job.id.in_(ids))
    with database.read() as session:
        return {row.id: Ended(row.id, row.state, row.done, row.result, row.error) for row in session.execute(query)}


def read_tests(store: ObjectStore, arm: Arm, ended: Mapping[str, Ended]) -> Tested:
    result, trained = ended[arm.evaluation].result, ended[arm.training].result
    assert result is not None
    assert trained is not None
    found = EvaluationScores.model_validate_json(
        get_verified(store, str(result["report_key"]), str(result["report_sha256"]))
    )
    images = trained["images"]
    assert isinstance(images, int)
    tests = (*found.benchmarks, *(known.as_test() for known in found.transfer))
    return Tested(arm, images, {known.name: known for known in tests})


def read_recipes(database: Database, spec: ExperimentSpec) -> Mapping[str, TrainingRecipe]:
    """By name, as frozen with the first training of each: a later version's recipe may differ."""
    first: dict[str, str] = {}
    for arm in spec.arms:
        first.setdefault(arm.recipe, arm.training)
    with database.read() as session:
        specs = {name: session.get_one(Job, training).spec for name, training in first.items()}
    return {name: TrainingSpec.model_validate(frozen).recipe for name, frozen in specs.items()}
