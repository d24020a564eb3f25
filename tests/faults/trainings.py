"""A training whose machine dies: another process goes on at the committed step and ends with the same encoder."""

import contextlib
import os
import re
import signal
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import func, select

from shared.tables import Event, Job
from tests.processes import wait_until

from .cluster import Cluster
from .parts import Part, children
from .run import Row

STEPS, CHECKPOINT = 120, 20
RUNS = re.compile(r"training runs.*from_step=(\d+)")


def kill_trainer(cluster: Cluster, seed: int) -> Row:
    """Once so that its training process is left behind, once with everything it started."""
    trainer = cluster.orchestrator.celery("trainer", "services.trainer.tasks", "train")
    job_id = cluster.user.submit("/trainings", request(seed))
    seconds, expected = [], [0]
    for leaves_orphan in (True, False):
        before = committed(cluster, job_id)
        look_for = partial(newer_checkpoint, cluster, job_id, before)
        expected.append(wait_until(look_for, seconds=120, what="a checkpoint"))
        fence = read(cluster, job_id).fence
        kill(trainer, leaves_orphan=leaves_orphan)
        killed_at = datetime.now(UTC)
        again = wait_until(partial(claimed_again, cluster, job_id, fence), seconds=60, what="another claim")
        seconds.append((again - killed_at).total_seconds())
    cluster.user.ended(job_id, seconds=180)
    undisturbed = cluster.user.submit("/trainings", request(seed))
    cluster.user.ended(undisturbed, seconds=180)
    cluster.orchestrator.remove("trainer")
    return judge(cluster, job_id, undisturbed, expected, seconds, starts(trainer))


def request(seed: int) -> dict[str, object]:
    return {
        "real": "digits-train",
        "architecture": "test_resnet",
        "steps": STEPS,
        "checkpoint_steps": CHECKPOINT,
        "optimizer": "adamw",
        "learning_rate": 0.002,
        "flip": False,
        "seed": seed,
    }


def read(cluster: Cluster, job_id: str) -> Job:
    with cluster.database.read() as session:
        return session.get_one(Job, job_id)


def committed(cluster: Cluster, job_id: str) -> int:
    checkpoint = read(cluster, job_id).checkpoint
    return int(str(checkpoint["step"])) if checkpoint else 0


def newer_checkpoint(cluster: Cluster, job_id: str, than: int) -> int | None:
    step = committed(cluster, job_id)
    return step if step > than else None


def claimed_again(cluster: Cluster, job_id: str, fence: int) -> datetime | None:
    job = read(cluster, job_id)
    return job.claimed_at if job.fence > fence else None


def kill(trainer: Part, *, leaves_orphan: bool) -> None:
    started = descendants(trainer.process.pid)
    trainer.kill()
    for pid in [] if leaves_orphan else started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *descendants(child))]


def starts(trainer: Part) -> list[int]:
    """At which step each run began, by the trainer's own log."""
    return [int(step) for step in RUNS.findall(trainer.log.read_text())]


def judge(
    cluster: Cluster, job_id: str, undisturbed: str, expected: list[int], seconds: list[float], began: list[int]
) -> Row:
    job, other = read(cluster, job_id), read(cluster, undisturbed)
    resumed = began[: len(expected)]
    problems = []
    if job.state != "succeeded" or job.done != STEPS:
        problems.append(f"the training is {job.state} at step {job.done}: {job.error}")
    if any(step < committed for step, committed in zip(resumed, expected, strict=True)):
        problems.append(f"runs began at {resumed}, committed were {expected}")
    if encoder(job) != encoder(other):
        problems.append(f"its encoder {encoder(job)} is not the undisturbed one {encoder(other)}")
    lost = sum(max(0, committed - step) for step, committed in zip(resumed, expected, strict=True))
    return Row(
        "kill -9 of a trainer",
        2,
        1,
        lost,
        times_ended(cluster, job_id) - 1,
        job.fence - 1,
        max(seconds),
        tuple(problems),
    )


def times_ended(cluster: Cluster, job_id: str) -> int:
    """How often it was told to have succeeded."""
    ends = select(func.count()).where(Event.job_id == job_id, Event.payload["state"].as_string() == "succeeded")
    with cluster.database.read() as session:
        return session.scalar(ends) or 0


def encoder(job: Job) -> object:
    return (job.result or {}).get("encoder_sha256")
