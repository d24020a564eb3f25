"""An evaluation whose machine dies: another process measures again and ends with the undisturbed report, once."""

import hashlib
import json
import time
from typing import Any

from sqlalchemy import select

from shared.tables import Job, JsonObject
from tests.processes import wait_until

from . import trainings
from .cluster import Cluster
from .parts import Part
from .proxy import Hold
from .run import Row
from .trainings import read, times_ended

STEPS = 20
# What the evaluator asks S3 for last before it is killed, and is never answered.
READS, WRITES = "GET /{bucket}/trainings/", "PUT /{bucket}/evaluations/"


def kill_evaluator(cluster: Cluster, seed: int) -> Row:
    """Once while it reads the encoder, once between its stored report and the row that names it."""
    evaluator = cluster.orchestrator.celery("evaluator", "services.evaluator.tasks", "evaluate")
    request = {"training": trained(cluster, seed)}
    undisturbed = cluster.user.submit("/evaluations", request)
    cluster.user.ended(undisturbed, seconds=60)
    reading = lose_answer(cluster, READS)
    job_id = cluster.user.submit("/evaluations", request)
    kill_at(reading, evaluator)
    writing = lose_answer(cluster, WRITES)
    seconds = [until_claimed(cluster, job_id, than=1)]
    kill_at(writing, evaluator)
    cluster.links.s3.hold = None
    seconds.append(until_claimed(cluster, job_id, than=2))
    cluster.user.ended(job_id, seconds=60)
    cluster.orchestrator.remove("evaluator")
    return judge(cluster, job_id, undisturbed, seconds)


def trained(cluster: Cluster, seed: int) -> str:
    """A training with an encoder: one that is there, or a short one."""
    with cluster.database.read() as session:
        found = session.scalars(select(Job.id).where(Job.kind == "training", Job.state == "succeeded")).first()
    if found is not None:
        return found
    cluster.orchestrator.celery("trainer", "services.trainer.tasks", "train")
    job_id = cluster.user.submit("/trainings", trainings.request(seed) | {"steps": STEPS})
    cluster.user.ended(job_id, seconds=120)
    cluster.orchestrator.remove("trainer")
    return job_id


def lose_answer(cluster: Cluster, request: str) -> Hold:
    """The next such request arrives at S3, and its answer does not come back."""
    cluster.links.s3.hold = Hold(request.format(bucket=cluster.settings.s3_bucket).encode())
    return cluster.links.s3.hold


def kill_at(hold: Hold, evaluator: Part) -> None:
    assert hold.struck.wait(60), f"{hold.marker!r} was not asked for"
    evaluator.kill()


def until_claimed(cluster: Cluster, job_id: str, *, than: int) -> float:
    """Seconds from now until a claim with a newer fence."""
    began = time.monotonic()
    wait_until(lambda: read(cluster, job_id).fence > than or None, seconds=60, what="another claim")
    return time.monotonic() - began


def judge(cluster: Cluster, job_id: str, undisturbed: str, seconds: list[float]) -> Row:
    job, problems = read(cluster, job_id), []
    if job.state != "succeeded":
        problems.append(f"the evaluation is {job.state}: {job.error}")
    found, expected = report(cluster, job_id), report(cluster, undisturbed)
    if found != expected:
        problems.append(f"its report {found} is not the undisturbed one {expected}")
    kills, wasted = len(seconds), job.fence - 1
    if wasted != kills:
        problems.append(f"{wasted} claims were wasted by {kills} kills")
    again = times_ended(cluster, job_id) - 1
    return Row("kill -9 of an evaluator", kills, 1, int(found is None), again, wasted, max(seconds), tuple(problems))


def report(cluster: Cluster, job_id: str) -> dict[str, Any] | None:
    """What its row names, if it is that, without the evaluation's own id."""
    result: JsonObject = read(cluster, job_id).result or {}
    if "report_key" not in result:
        return None
    data = cluster.store.get(str(result["report_key"]))
    if hashlib.sha256(data).hexdigest() != result["report_sha256"]:
        return None
    content: dict[str, Any] = json.loads(data)
    return content | {"evaluation": ""}
