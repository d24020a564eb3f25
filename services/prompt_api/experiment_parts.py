"""The jobs of an experiment that exists: cancelled together, and in a retry only what is lacking made again."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.errors import Conflict
from shared.experiments import Arm, ExperimentSpec
from shared.lifecycle import request_cancel
from shared.settings import Settings
from shared.tables import TERMINAL, Job

from .limits import Wanted, wanted_again
from .new_jobs import RETRIABLE, add_job, add_retry

ENDED_WELL = ("succeeded", "partial")


def add_experiment(session: Session, spec: ExperimentSpec, *, team: str, retry_of: str | None = None) -> Job:
    evaluations = jobs_by_id(session, [arm.evaluation for arm in spec.arms])
    return add_job(
        session,
        kind="experiment",
        team=team,
        spec=spec.model_dump(mode="json"),
        total=len(spec.arms),
        priority=spec.request.priority,
        parents=[evaluations[arm.evaluation] for arm in spec.arms],
        retry_of=retry_of,
    )


def parts_of(spec: ExperimentSpec) -> list[str]:
    """Ids of every dataset, training and evaluation."""
    ids = [dataset.id for dataset in spec.datasets]
    return ids + [job_id for arm in spec.arms for job_id in (arm.training, arm.evaluation)]


def jobs_by_id(session: Session, ids: Sequence[str]) -> Mapping[str, Job]:
    return {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids)))}


def cancel_parts(session: Session, experiment: Job) -> None:
    """Its unfinished jobs; a retry shares only finished ones with the experiment before it."""
    ids = parts_of(ExperimentSpec.model_validate(experiment.spec))
    live = select(Job).where(Job.id.in_(ids), Job.state.not_in(TERMINAL)).order_by(Job.id).with_for_update()
    # Cancelling flushes one by one; a job must not be read again in between.
    for job in session.scalars(live).all():
        request_cancel(session, job)


def retry_experiment(session: Session, old: Job) -> Job:
    """A new experiment with new jobs in the place of those that ended badly; raises Conflict."""
    if old.state not in RETRIABLE:
        raise Conflict(f"job {old.id} is {old.state}; only a {', '.join(RETRIABLE)} job can be asked for again")
    spec = ExperimentSpec.model_validate(old.spec)
    jobs = dict(jobs_by_id(session, parts_of(spec)))
    datasets = tuple(known.model_copy(update={"id": again(session, jobs, known.id).id}) for known in spec.datasets)
    renamed = {known.id: new.id for known, new in zip(spec.datasets, datasets, strict=True)}
    arms = tuple(retry_arm(session, jobs, arm, renamed) for arm in spec.arms)
    new = spec.model_copy(update={"datasets": datasets, "arms": arms})
    return add_experiment(session, new, team=old.team_id, retry_of=old.id)


def again(session: Session, jobs: Mapping[str, Job], job_id: str) -> Job:
    """The job itself where it ended well, else a new one like it."""
    return jobs[job_id] if jobs[job_id].state in ENDED_WELL else add_retry(session, jobs[job_id])


def retry_arm(session: Session, jobs: Mapping[str, Job], arm: Arm, renamed: Mapping[str, str]) -> Arm:
    if jobs[arm.evaluation].state == "succeeded":
        return arm
    dataset = renamed[arm.dataset] if arm.dataset else None
    training = jobs[arm.training]
    if training.state != "succeeded":
        training = copy_job(session, training, {"datasets": [dataset]} if dataset else {}, dataset)
    evaluation = copy_job(session, jobs[arm.evaluation], {"training": training.id}, training.id)
    return arm.model_copy(update={"dataset": dataset, "training": training.id, "evaluation": evaluation.id})


def copy_job(session: Session, old: Job, changes: Mapping[str, object], parent: str | None) -> Job:
    """Its frozen spec with another parent; raises Conflict while it is not over."""
    if old.state not in RETRIABLE:
        raise Conflict(f"{old.id} is still {old.state}; ask again when it has ended")
    request = old.spec["request"]
    assert isinstance(request, dict)
    return add_job(
        session,
        kind=old.kind,
        team=old.team_id,
        spec={**old.spec, "request": {**request, **changes}},  # type: ignore[dict-item]  # ids, which are JSON
        total=old.total,
        priority=old.priority,
        parents=[session.get_one(Job, parent)] if parent else [],
        retry_of=old.id,
    )


def wanted_by_retry(session: Session, old: Job, settings: Settings) -> Wanted:
    """By a retry of any job."""
    if old.kind != "experiment":
        return wanted_again(old, settings)
    spec = ExperimentSpec.model_validate(old.spec)
    jobs = jobs_by_id(session, parts_of(spec))
    lacking = [job for job in jobs.values() if job.state not in ENDED_WELL]
    each = [wanted_again(job, settings) for job in lacking]
    return Wanted(
        images=max((wanted.images for wanted in each), default=0),
        stored_bytes=sum(wanted.stored_bytes for wanted in each),
        jobs=len(lacking) + 1,
    )
