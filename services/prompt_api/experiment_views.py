"""An experiment as users see it: its arms, and how far each stage is."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.experiments import Arm, ExperimentDataset, ExperimentRequest, ExperimentSpec
from shared.tables import TERMINAL, Job

from .experiment_parts import ENDED_WELL, parts_of
from .job_view import view_job
from .report_files import file_links, file_names
from .schemas import JobState, JobView, JsonView, View


class PartView(View):
    id: str
    state: JobState


class ArmView(View):
    """One network: what it is trained on, how, and where it is tested."""

    trained_on: str
    dataset: PartView | None = Field(description="Null where it is trained on real images.")
    recipe: str
    seed: int
    training: PartView
    evaluation: PartView


class Stage(View):
    """Of all jobs of one kind: `total` and `done` count images, steps or benchmarks, and grow while it runs."""

    jobs: int
    ended: int
    failed: int = Field(description="Of the ended, those that failed or were cancelled.")
    total: int
    done: int


class Stages(View):
    datasets: Stage
    trainings: Stage
    evaluations: Stage


class ExperimentView(View):
    job: JobView
    request: ExperimentRequest
    stages: Stages
    arms: list[ArmView]
    files: list[str] = Field(description="Names below /experiments/{id}/files/, once the report is there.")
    result: JsonView | None
    links: dict[str, str]


class Part(NamedTuple):
    """What is read of a job that belongs to an experiment; its spec can be megabytes."""

    id: str
    state: JobState
    total: int
    done: int

    @property
    def view(self) -> PartView:
        return PartView(id=self.id, state=self.state)


def view_experiment(session: Session, job: Job) -> ExperimentView:
    spec = ExperimentSpec.model_validate(job.spec)
    parts = read_parts(session, spec)
    datasets = {dataset.id: dataset for dataset in spec.datasets}
    base = f"/experiments/{job.id}"
    files = file_names(job.result)
    return ExperimentView(
        job=view_job(session, job),
        request=spec.request,
        stages=Stages(
            datasets=stage([parts[dataset.id] for dataset in spec.datasets]),
            trainings=stage([parts[arm.training] for arm in spec.arms]),
            evaluations=stage([parts[arm.evaluation] for arm in spec.arms]),
        ),
        arms=[view_arm(arm, datasets, parts) for arm in spec.arms],
        files=files,
        result=job.result,
        links={"job": f"/jobs/{job.id}", "report": f"{base}/report"} | file_links(base, files),
    )


def read_parts(session: Session, spec: ExperimentSpec) -> Mapping[str, Part]:
    columns = select(Job.id, Job.state, Job.total, Job.done).where(Job.id.in_(parts_of(spec)))
    return {row.id: Part(row.id, row.state, row.total, row.done) for row in session.execute(columns)}


def stage(parts: Sequence[Part]) -> Stage:
    ended = [part for part in parts if part.state in TERMINAL]
    return Stage(
        jobs=len(parts),
        ended=len(ended),
        failed=sum(part.state not in ENDED_WELL for part in ended),
        total=sum(part.total for part in parts),
        done=sum(part.done for part in parts),
    )


def view_arm(arm: Arm, datasets: Mapping[str, ExperimentDataset], parts: Mapping[str, Part]) -> ArmView:
    return ArmView(
        trained_on=datasets[arm.dataset].cell.label if arm.dataset else f"real: {arm.real}",
        dataset=parts[arm.dataset].view if arm.dataset else None,
        recipe=arm.recipe,
        seed=arm.seed,
        training=parts[arm.training].view,
        evaluation=parts[arm.evaluation].view,
    )
