"""One team that owns one of everything the API can show, made and finished as the services do it."""

import json
from hashlib import sha256
from typing import NamedTuple

import httpx2
from sqlalchemy import select, update

from services.dispatcher.tick import tick
from shared import lifecycle
from shared.database import Database
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import DatasetShard, Job, JsonObject, Metric
from tests.drawing import draw_pending
from tests.rows import plan_all

ZERO = "n13742358"
HOOK = "https://hooks.example.org/ours"


EXPERIMENT: dict[str, object] = {
    "name": "digits",
    "classes": "digits",
    "real": ["digits-train"],
    "training": {"steps": 1},
    "benchmarks": ["digits"],
}


class Owned(NamedTuple):
    dataset: str
    training: str
    evaluation: str
    experiment: str
    probe: str
    webhook: str
    shard: int
    class_id: str = ZERO

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.dataset, self.training, self.evaluation, self.experiment, self.probe, self.webhook)


def make_everything(api: httpx2.Client, database: Database, store: LocalStore, settings: Settings) -> Owned:
    """With the key of `api`'s team: each job has ended well and has everything that it can have."""
    dataset = created(api, "/datasets", {"classes": "digits", "images_per_class": 1})
    draw(database, dataset, store, settings)
    training = created(api, "/trainings", {"datasets": [dataset]})
    succeed(database, training, {"encoder_key": f"trainings/{training}/encoder.safetensors"})
    with database.write() as session:
        session.add(Metric(job_id=training, name="loss", step=0, value=1.0))
    evaluation = created(api, "/evaluations", {"training": training})
    succeed(database, evaluation, store_report(store, evaluation))
    experiment = created(api, "/experiments", EXPERIMENT)
    succeed(database, experiment, store_files(store, f"experiments/{experiment}", b"{}"))
    # Its images are too few for a probe, so another dataset is to be probed.
    probed = created(api, "/datasets", {"classes": "digits", "images_per_class": 100, "seed": 1})
    probe = created(api, "/probes", {"dataset": probed, "benchmark": "digits"})
    succeed(database, probe, store_files(store, f"probes/{probe}", b"{}"))
    webhook = created(api, "/webhooks", {"url": HOOK})
    with database.read() as session:
        shard = session.scalars(select(DatasetShard.shard_id).where(DatasetShard.position == 0)).one()
    return Owned(dataset, training, evaluation, experiment, probe, webhook, shard)


def created(api: httpx2.Client, path: str, body: dict[str, object]) -> str:
    answer = api.post(path, json=body)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def draw(database: Database, dataset: str, store: LocalStore, settings: Settings) -> None:
    plan_all(database, dataset)
    draw_pending(database, store)
    tick(database, store, settings, absent={})


def succeed(database: Database, job_id: str, result: JsonObject) -> None:
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(result=result))
        lifecycle.transition(session, job_id, "queued")
        assert lifecycle.transition(session, job_id, "running")
        assert lifecycle.transition(session, job_id, "succeeded")


def store_report(store: LocalStore, evaluation: str) -> JsonObject:
    return store_files(store, f"evaluations/{evaluation}", json.dumps({"evaluation": evaluation}).encode())


def store_files(store: LocalStore, folder: str, report: bytes) -> JsonObject:
    result: JsonObject = {}
    for name, data in {"report": report, "report.html": b"<p>"}.items():
        key = f"{folder}/{name}"
        store.put(key, data)
        result |= {f"{name}_key": key, f"{name}_sha256": sha256(data).hexdigest()}
    return result
