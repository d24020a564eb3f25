"""The demo as a client of the API: asks for everything at once, waits for it, and reads the results back."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

from pydantic import BaseModel

from client import Client, JobFailed
from client.models import Job
from shared.seeds import digest

from .plan import DemoPlan
from .report import Row, row

Submit = Callable[[str], Job]


class Branch(NamedTuple):
    """One bar of the figure: its dataset, unless it is the real images, and one training and test per seed."""

    label: str
    guidance: float | None
    dataset: str | None
    trainings: tuple[str, ...]
    evaluations: tuple[str, ...]

    @property
    def jobs(self) -> tuple[str, ...]:
        return (*((self.dataset,) if self.dataset else ()), *self.trainings, *self.evaluations)


def ask(client: Client, plan: DemoPlan) -> tuple[Branch, ...]:
    """Submit every job now: trainings wait for their dataset, tests for their training."""
    branches = []
    for guidance in (*plan.guidances, None):
        dataset = ask_dataset(client, plan, guidance) if guidance is not None else None
        trainings = tuple(ask_training(client, plan, dataset, seed) for seed in plan.seeds)
        evaluations = tuple(ask_evaluation(client, plan, training) for training in trainings)
        label = "real" if guidance is None else f"synthetic, guidance {guidance:g}"
        branches.append(Branch(label, guidance, dataset, trainings, evaluations))
    return tuple(branches)


def ask_dataset(client: Client, plan: DemoPlan, guidance: float) -> str:
    request = plan.dataset(guidance)
    return once(client, request, lambda key: client.datasets.submit(request, idempotency_key=key))


def ask_training(client: Client, plan: DemoPlan, dataset: str | None, seed: int) -> str:
    request = plan.training(dataset, seed)
    return once(client, request, lambda key: client.trainings.submit(request, idempotency_key=key))


def ask_evaluation(client: Client, plan: DemoPlan, training: str) -> str:
    request = plan.evaluation(training)
    return once(client, request, lambda key: client.evaluations.submit(request, idempotency_key=key))


def once(client: Client, request: BaseModel, submit: Submit) -> str:
    """The id of the job that an earlier run made of the same request, unless it failed; else of a new one."""
    name = digest(request.model_dump(mode="json"))
    for attempt in count(1):
        job = client.jobs.get(submit(f"demo-{name}-{attempt}").id)
        if job.state not in ("failed", "cancelled"):
            return job.id
    raise AssertionError("count() does not end")


def jobs_of(client: Client, branches: Sequence[Branch]) -> Iterator[Job]:
    """Every job as it is now; raises JobFailed for one that ended badly."""
    for job_id in (job_id for branch in branches for job_id in branch.jobs):
        job = client.jobs.get(job_id)
        if job.terminal and not job.ended_well:
            raise JobFailed(job)
        yield job


def read_row(client: Client, branch: Branch) -> Row:
    tests = [client.evaluations.report(evaluation).benchmarks[0] for evaluation in branch.evaluations]
    training = client.trainings.get(branch.trainings[0])
    assert training.result is not None
    return row(
        branch.label,
        branch.guidance,
        images=training.result.images,
        top1=[100 * test.top1 for test in tests],
        n_test=tests[0].images,
    )
