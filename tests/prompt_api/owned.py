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


class Owned(NamedTuple):
    dataset: str
    training: str
    evaluation: str
    webhook: str
    shard: int
    class_id: str = ZERO

    @property
    def ids(self) -> tuple[str, ...]:
        return (self.dataset, self.training, self.evaluation, self.webhook)


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
    webhook = created(api, "/webhooks", {"url": HOOK})
    with database.read() as session:
        shard = session.scalars(select(DatasetShard.shard_id).where(DatasetShard.position == 0)).one()
    return Owned(dataset, training, evaluation, webhook, shard)


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
        assert lifecycle.transition(session, job_id, "running")
        assert lifecycle.transition(session, job_id, "succeeded")


def store_report(store: LocalStore, evaluation: str) -> JsonObject:
    report = json.dumps({"evaluation": evaluation}).encode()
    key = f"evaluations/{evaluation}/report-1.json"
    store.put(key, report)
    return {"report_key": key, "report_sha256": sha256(report).hexdigest()}
