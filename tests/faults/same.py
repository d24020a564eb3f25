"""A dataset built under random faults is the dataset built in peace: the same manifest, the same bytes."""

import json
from functools import partial
from typing import Any

from shared.tables import Job

from .cluster import Cluster
from .random_faults import strike_at_random
from .run import Row, run
from .scene import Fault, Scene, nothing

# What may differ: the key of an object ends with the fence of the claim that drew it.
COMPARED = ("class_id", "label", "start", "stop", "take", "accepted", "bytes", "sha256")
DEMO = {"model": "digits-sd", "classes": "digits", "steps": 3, "scale": 2}
Manifest = list[tuple[object, ...]]


def under_random_faults(cluster: Cluster, seed: int, *, images_per_class: int = 320, pause_seconds: float = 3) -> Row:
    fault = Fault("random faults", nothing, images_per_class=images_per_class)
    return compare(cluster, fault, seed, pause_seconds=pause_seconds)


def demo_model_under_random_faults(cluster: Cluster, seed: int) -> Row:
    """The real generator; each batch is one shard, so the batch shape is the same in every run."""
    cluster.start_workers("services.sd_worker.tasks", 2)
    fault = Fault("random faults, model digits-sd", nothing, images_per_class=80, request=DEMO)
    row = compare(cluster, fault, seed, pause_seconds=3)
    cluster.start_workers("tests.faults.stand_in", 3)
    return row


def compare(cluster: Cluster, fault: Fault, seed: int, *, pause_seconds: float) -> Row:
    found: list[Manifest] = []

    def remember(scene: Scene) -> None:
        found.append(manifest(cluster, scene.job_id))

    run(cluster, fault._replace(after=remember), seed=seed)
    cluster.forget(cluster.user.acknowledged[-1])
    hit = fault._replace(
        strike=partial(strike_at_random, pause_seconds=pause_seconds),
        after=remember,
        most_wasted=500,
        most_seconds=float("inf"),
        lasts=True,
    )
    row = run(cluster, hit, seed=seed)
    undisturbed, disturbed = found
    different = len(set(undisturbed) ^ set(disturbed)) + abs(len(undisturbed) - len(disturbed))
    problems = [f"{different} entries differ from the undisturbed manifest"] if different else []
    return row._replace(problems=(*row.problems, *problems))


def manifest(cluster: Cluster, job_id: str) -> Manifest:
    with cluster.database.read() as session:
        job = session.get_one(Job, job_id)
    assert job.result is not None
    content: dict[str, Any] = json.loads(cluster.store.get(str(job.result["manifest_key"])))
    return [tuple(shard[name] for name in COMPARED) for shard in content["shards"]]
