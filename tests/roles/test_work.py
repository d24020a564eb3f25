"""Each service can do its work with the rights it has in PostgreSQL, by its own functions."""

import threading

import httpx2
import pytest
from sqlalchemy import select

from services.dispatcher.retention import expire_old
from services.dispatcher.sweep import sweep
from services.dispatcher.tick import tick
from services.dispatcher.verify import verify
from services.trainer.journal import Journal
from services.trainer.probe_images import class_totals, first_shards
from services.webhooks.outbox import Outcome, claim, settle
from shared import job_leases, leases
from shared.database import Database, database_now
from shared.endings import Ending
from shared.endings import settle as settle_job
from shared.roles import GRANTS
from shared.schema import check
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import Job, Shard, Webhook, WebhookDelivery
from shared.workers import Presence
from tests.roles.conftest import Logins, draw, hold_job, make_dataset
from tests.rows import add_job
from tests.rows import claim as claim_shard

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize("service", [name for name in GRANTS if name != "keda"])
def test_every_service_can_check_the_schema(login: Logins, service: str) -> None:
    check(login(service))


def test_a_dataset_is_accepted_planned_drawn_and_finished(
    api: httpx2.Client, login: Logins, place: Settings, objects: LocalStore
) -> None:
    dispatcher, worker = login("dispatcher"), login("worker")
    dataset = make_dataset(api)
    assert api.post("/webhooks", json={"url": "https://hooks.example.org/"}).status_code == 201
    tick(dispatcher, objects, place, absent={})
    for _ in range(10):
        draw(worker, objects)
        tick(dispatcher, objects, place, absent={})
    assert api.get(f"/jobs/{dataset}").json()["state"] == "succeeded"
    assert api.get(f"/datasets/{dataset}/shards").status_code == 200
    assert api.get("/webhooks").json()["items"][0]["disabled_at"] is None


def test_a_worker_says_that_it_lives_gives_back_gives_up_and_loses_to_the_dispatcher(
    api: httpx2.Client, login: Logins, place: Settings, objects: LocalStore
) -> None:
    dispatcher, worker = login("dispatcher"), login("worker")
    make_dataset(api)
    presence = Presence(worker, "generate", device="cpu", models=["digits-sd"])
    presence.start()
    tick(dispatcher, objects, place, ring=lambda kind: None, absent={})
    given_back, broken, lost = claim_shard(worker), claim_shard(worker), claim_shard(worker, lease_seconds=-1)
    with worker.write() as session:
        leases.release(session, given_back)
        leases.give_up(session, broken[0], reason="broke", max_attempts=1)
    tick(dispatcher, objects, place, ring=lambda kind: None, absent={})
    with worker.read() as session:
        states = [session.get_one(Shard, held[0].shard_id).state for held in (given_back, broken, lost)]
    assert states == ["pending", "failed", "pending"]
    presence.stop()


def test_a_damaged_object_is_found_reported_and_drawn_again(
    api: httpx2.Client, login: Logins, place: Settings, objects: LocalStore
) -> None:
    dispatcher, worker = login("dispatcher"), login("worker")
    dataset = make_dataset(api)
    tick(dispatcher, objects, place, absent={})
    shard = draw(worker, objects)  # whose digest is not that of its bytes
    assert api.post(f"/datasets/{dataset}/verify").status_code == 202
    list(verify(dispatcher, objects))
    with dispatcher.read() as session:
        assert session.get_one(Shard, shard).damage is not None
    tick(dispatcher, objects, place, absent={})
    list(sweep(dispatcher, objects, stray_seconds=-1))
    list(expire_old(dispatcher, place))
    assert shard in {draw(worker, objects) for _ in range(8)}


@pytest.mark.parametrize("service", ["api", "trainer", "evaluator"])
def test_a_reader_reports_a_damaged_object(
    api: httpx2.Client, login: Logins, place: Settings, objects: LocalStore, service: str
) -> None:
    make_dataset(api)
    tick(login("dispatcher"), objects, place, absent={})
    shard = draw(login("worker"), objects)
    reader = login(service)
    with reader.write() as session:
        key = str(session.get_one(Shard, shard).object_key)
        assert leases.report_damage(session, object_key=key, reason="gone")


@pytest.mark.parametrize(
    ("service", "kind"),
    [("trainer", "training"), ("trainer", "probe"), ("evaluator", "evaluation"), ("evaluator", "experiment")],
)
@pytest.mark.parametrize(
    ("ending", "state"),
    [
        (Ending(result={"a": 1}), "succeeded"),
        (Ending(result={"a": 1}, failed=2), "partial"),
        (Ending(error={"type": "t", "detail": "d", "retryable": False}), "failed"),
        (Ending(is_stopped=True), "queued"),
        (Ending(crash="broke"), "queued"),
    ],
)
def test_a_trainer_and_an_evaluator_hold_a_job_until_its_end(
    owner: Database, login: Logins, service: str, kind: str, ending: Ending, state: str
) -> None:
    with owner.write() as session:
        session.add(Webhook(id="wh-1", team_id="default", url="https://x/", created_at=database_now(session)))
        job = add_job(session, kind)
    database = login(service)
    lease = hold_job(database, kind)
    with database.write() as session:
        job_leases.report_progress(session, lease, done=1, total=3)
        job_leases.save_checkpoint(session, lease, {"key": "k"})
        settle_job(session, lease, ending, max_attempts=3)
    with owner.read() as session:
        assert session.get_one(Job, job.id).state == state
        assert len(session.scalars(select(WebhookDelivery)).all()) == (state in ("succeeded", "partial", "failed"))


def test_a_trainer_writes_its_curves(owner: Database, login: Logins, objects: LocalStore) -> None:
    with owner.write() as session:
        add_job(session, "training")
    trainer = login("trainer")
    journal = Journal(trainer, objects, hold_job(trainer, "training"), basis={}, stop=threading.Event())
    for _ in range(2):
        journal.write_progress(done=1, total=3, values={"loss": 0.5})


def test_the_dispatcher_takes_back_the_jobs_of_silent_trainers(
    owner: Database, login: Logins, place: Settings, objects: LocalStore
) -> None:
    with owner.write() as session:
        job = add_job(session, "training")
    with login("trainer").write() as session:
        job_leases.claim_job(session, "training", worker="w", lease_seconds=-1)
    tick(login("dispatcher"), objects, place, absent={})
    with owner.read() as session:
        assert session.get_one(Job, job.id).state == "queued"


def test_the_sender_claims_delivers_and_disables(owner: Database, login: Logins) -> None:
    with owner.write() as session:
        session.add(Webhook(id="wh-1", team_id="default", url="https://x/", created_at=database_now(session)))
        jobs = [add_job(session, "training").id for _ in range(2)]
    with login("dispatcher").write() as session:
        for job in jobs:
            leases.lifecycle.transition(session, job, "failed")
    with login("webhooks").write() as session:
        first, second = claim(session)
        settle(session, first, Outcome(None), give_up_hours=1)
        settle(session, second, Outcome("status 410", gone=True), give_up_hours=1)
    with owner.read() as session:
        assert session.get_one(Webhook, "wh-1").disabled_reason is not None


def test_an_experiment_is_made_cancelled_retried_and_shown(api: httpx2.Client) -> None:
    asked = {"name": "e", "classes": "digits", "real": ["digits-train"], "training": {}, "benchmarks": ["digits"]}
    made = api.post("/experiments", json={**asked, "grids": [{"prompts": ["name"], "images_per_class": [1]}]})
    assert made.status_code == 202, made.text
    job = made.json()["id"]
    answers = [api.post(f"/jobs/{job}/cancel"), api.get(f"/experiments/{job}"), api.post(f"/jobs/{job}/retry")]
    # Its dataset is asked to stop, and has not yet.
    assert [answer.status_code for answer in answers] == [202, 200, 409]


def test_a_probe_is_made_shown_and_released(
    api: httpx2.Client, login: Logins, place: Settings, objects: LocalStore
) -> None:
    dispatcher, worker, trainer = login("dispatcher"), login("worker"), login("trainer")
    dataset = api.post("/datasets", json={"classes": "digits", "images_per_class": 10, "seed": 5}).json()["id"]
    asked = {"dataset": dataset, "benchmark": "digits", "shares": [0.1, 0.2, 0.3]}
    probe = api.post("/probes", json=asked).json()["id"]
    for _ in range(4):
        tick(dispatcher, objects, place, absent={})
        assert api.get(f"/probes/{probe}").json()["job"]["state"] == "waiting"
        for _ in range(8):
            draw(worker, objects)
    tick(dispatcher, objects, place, absent={})
    assert hold_job(trainer, "probe").job_id == probe
    with trainer.read() as session:
        totals = class_totals(session, dataset)
        assert len(first_shards(session, dataset, totals, 0.3)) == 30


def test_jobs_are_cancelled_retried_and_shown(api: httpx2.Client) -> None:
    dataset = make_dataset(api)
    assert make_dataset(api) == dataset
    training = api.post("/trainings", json={"datasets": [dataset], "steps": 7}).json()["id"]
    asked = [
        api.post("/evaluations", json={"training": training, "benchmarks": ["digits"]}),
        api.post(f"/jobs/{training}/cancel"),
        api.post(f"/jobs/{training}/retry"),
        *(api.get(path) for path in (f"/jobs/{training}/events", "/jobs", "/usage", "/models", "/metrics", "/readyz")),
    ]
    assert [answer.status_code for answer in asked] == [202, 202, 202, 200, 200, 200, 200, 200, 200]
