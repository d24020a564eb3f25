"""Trainings and evaluations: accepted before their parents end, refused when they cannot come to anything."""

import json
from hashlib import sha256

import httpx2
import pytest
from pydantic import JsonValue
from sqlalchemy import func, select

from shared import lifecycle
from shared.database import Database
from shared.specs import TrainingSpec
from shared.storage import ObjectStore
from shared.tables import Job, JobParent, JsonObject, Metric


@pytest.fixture
def dataset(api: httpx2.Client) -> str:
    return str(api.post("/datasets", json={"classes": "digits", "images_per_class": 2}).json()["id"])


@pytest.fixture
def training(api: httpx2.Client, dataset: str) -> str:
    return str(api.post("/trainings", json={"datasets": [dataset], "steps": 7}).json()["id"])


def end(database: Database, job_id: str, state: str, *, result: JsonObject | None = None) -> None:
    with database.write() as session:
        session.get_one(Job, job_id).result = result
        session.flush()
        assert lifecycle.transition(session, job_id, state)


def jobs(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def test_a_training_waits_for_its_dataset(api: httpx2.Client, database: Database, dataset: str) -> None:
    job = api.post("/trainings", json={"datasets": [dataset], "steps": 7, "architecture": "resnet18"}).json()
    assert (job["state"], job["counts"]["total"], job["kind"]) == ("waiting", 7, "training")
    assert job["summary"] == f"resnet18 for 7 steps on {dataset}"
    with database.read() as session:
        assert session.scalars(select(JobParent.parent_id).where(JobParent.job_id == job["id"])).all() == [dataset]
        spec = TrainingSpec.model_validate(session.get_one(Job, job["id"]).spec)
    assert (spec.class_ids[0], spec.class_names[0], len(spec.class_ids)) == ("n13742358", "zero", 10)


def test_a_training_on_finished_or_real_images_is_queued(api: httpx2.Client, database: Database, dataset: str) -> None:
    end(database, dataset, "partial")
    assert api.post("/trainings", json={"datasets": [dataset]}).json()["state"] == "queued"
    real = api.post("/trainings", json={"real": "digits-train"}).json()
    assert real["state"] == "queued"
    assert api.get(f"/trainings/{real['id']}").json()["spec"]["class_names"][9] == "nine"


BAD_TRAININGS: list[tuple[dict[str, JsonValue], str]] = [
    ({"datasets": ["ds-unknown"]}, "'ds-unknown'"),
    ({"datasets": ["\0"]}, "'\\x00'"),
    ({"real": "digits"}, "digits is registered as a test set"),
    ({"real": "cifar"}, "'cifar'"),
    ({"real": "digits-train", "architecture": "resnet 18"}, "'resnet 18'"),
    ({"real": "digits-train", "datasets": ["ds-1"]}, "mixed by shares"),
    ({"real": "digits-train", "steps": 1, "epochs": 1}, "steps or epochs, not both"),
    ({"real": "digits-train", "learning_rate": 0}, "learning_rate"),
    ({"real": "digits-train", "optimiser": "adamw"}, "optimiser"),
]


@pytest.mark.parametrize(("body", "named"), BAD_TRAININGS)
def test_a_bad_training_is_refused_by_name(
    api: httpx2.Client, database: Database, body: dict[str, JsonValue], named: str
) -> None:
    answer = api.post("/trainings", json=body)
    assert (answer.status_code, named in answer.json()["detail"]) == (422, True), answer.text
    assert jobs(database) == 0


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_training_on_a_dataset_that_ended_badly_is_refused(
    api: httpx2.Client, database: Database, dataset: str, state: str
) -> None:
    end(database, dataset, state)
    answer = api.post("/trainings", json={"datasets": [dataset]})
    assert answer.status_code == 422
    assert f"POST /jobs/{dataset}/retry" in answer.json()["detail"]
    assert answer.json()["errors"][0]["pointer"] == "/datasets/0"
    assert jobs(database) == 1


def test_datasets_of_other_classes_cannot_be_trained_on_together(
    api: httpx2.Client, database: Database, dataset: str
) -> None:
    two = {"classes": ["n13742358", "n13742573"], "images_per_class": 1}
    other = api.post("/datasets", json=two).json()["id"]
    answer = api.post("/trainings", json={"datasets": [dataset, other]})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/datasets/1")
    assert "n13743269" in answer.json()["detail"]


def test_the_curve_comes_in_pages_of_steps(api: httpx2.Client, database: Database, training: str) -> None:
    with database.write() as session:
        for step in (1, 2, 3):
            session.add_all(Metric(job_id=training, name=name, step=step, value=step / 2) for name in ("loss", "lr"))
    first = api.get(f"/trainings/{training}/metrics?limit=2").json()
    second = api.get(f"/trainings/{training}/metrics?limit=2&cursor={first['next_cursor']}").json()
    assert [(item["step"], item["name"]) for item in first["items"]] == [(1, "loss"), (1, "lr"), (2, "loss"), (2, "lr")]
    assert ([item["value"] for item in second["items"]], second["next_cursor"]) == ([1.5, 1.5], None)


def test_an_evaluation_waits_for_its_training(api: httpx2.Client, training: str) -> None:
    job = api.post("/evaluations", json={"training": training}).json()
    assert (job["state"], job["counts"]["total"]) == ("waiting", 1)
    assert job["summary"] == f"{training} tested on digits"


@pytest.mark.parametrize(
    ("benchmarks", "named"),
    [
        (["imagenet"], "known: digits-train (train), digits (test)"),
        (["digits-train"], "digits-train is registered as a training set"),
        (["digits", "digits"], "digits is named twice"),
        ([], "benchmarks"),
    ],
)
def test_a_bad_benchmark_is_refused_by_name(
    api: httpx2.Client, database: Database, training: str, benchmarks: list[str], named: str
) -> None:
    answer = api.post("/evaluations", json={"training": training, "benchmarks": benchmarks})
    assert (answer.status_code, named in answer.json()["detail"]) == (422, True), answer.text
    assert jobs(database) == 2


def test_a_benchmark_without_a_class_of_the_training_is_refused(api: httpx2.Client) -> None:
    body = {"classes": ["n02123045", "n02123159"], "images_per_class": 1, "model": "sd14"}
    dataset = api.post("/datasets", json=body).json()["id"]
    training = api.post("/trainings", json={"datasets": [dataset]}).json()["id"]
    answer = api.post("/evaluations", json={"training": training})
    assert (answer.status_code, "never saw a class of benchmark digits" in answer.json()["detail"]) == (422, True)


def test_a_benchmark_may_have_more_classes_than_the_training(api: httpx2.Client) -> None:
    body = {"classes": ["n13742358", "n13742573"], "images_per_class": 1}
    dataset = api.post("/datasets", json=body).json()["id"]
    training = api.post("/trainings", json={"datasets": [dataset]}).json()["id"]
    assert api.post("/evaluations", json={"training": training}).status_code == 202


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_an_evaluation_of_a_training_that_ended_badly_is_refused(
    api: httpx2.Client, database: Database, training: str, state: str
) -> None:
    end(database, training, state)
    answer = api.post("/evaluations", json={"training": training})
    assert (answer.status_code, training in answer.json()["detail"]) == (422, True)
    assert api.post("/evaluations", json={"training": "tr-1"}).status_code == 422


def test_the_report_is_read_once_the_evaluation_succeeded(
    api: httpx2.Client, database: Database, store: ObjectStore, training: str
) -> None:
    evaluation = api.post("/evaluations", json={"training": training}).json()["id"]
    assert api.get(f"/evaluations/{evaluation}/report").status_code == 409
    data = json.dumps({"benchmarks": [{"name": "digits", "top1": 0.9}]}).encode()
    store.put("evaluations/report.json", data)
    key = {"report_key": "evaluations/report.json", "report_sha256": sha256(data).hexdigest()}
    with database.write() as session:
        for state in ("queued", "running"):
            lifecycle.transition(session, evaluation, state)
    end(database, evaluation, "succeeded", result={**key, "summary": {"digits": {"top1": 0.9}}})
    assert api.get(f"/evaluations/{evaluation}/report").json()["benchmarks"][0]["top1"] == 0.9
    store.delete("evaluations/report.json")
    lost = api.get(f"/evaluations/{evaluation}/report")
    assert (lost.status_code, "ask for the evaluation again" in lost.json()["detail"]) == (409, True)
    assert api.get(f"/evaluations/{evaluation}").json()["result"]["summary"] == {"digits": {"top1": 0.9}}


def test_a_retried_training_keeps_its_spec_and_its_parents(
    api: httpx2.Client, database: Database, dataset: str, training: str
) -> None:
    end(database, training, "failed")
    again = api.post(f"/jobs/{training}/retry").json()
    with database.read() as session:
        old, new = session.get_one(Job, training), session.get_one(Job, again["id"])
        parents = session.scalars(select(JobParent.parent_id).where(JobParent.job_id == again["id"])).all()
    assert (new.spec, new.total, new.state, parents) == (old.spec, old.total, "waiting", [dataset])


def test_a_training_cannot_be_retried_without_its_dataset(
    api: httpx2.Client, database: Database, dataset: str, training: str
) -> None:
    end(database, training, "failed")
    end(database, dataset, "cancelled")
    answer = api.post(f"/jobs/{training}/retry")
    assert (answer.status_code, dataset in answer.json()["detail"]) == (422, True)


def test_each_list_shows_its_own_kind(api: httpx2.Client, dataset: str, training: str) -> None:
    evaluation = api.post("/evaluations", json={"training": training}).json()["id"]
    listed = {kind: [job["id"] for job in api.get(f"/{kind}s").json()["items"]] for kind in ("dataset", "training")}
    assert listed == {"dataset": [dataset], "training": [training]}
    assert [job["id"] for job in api.get("/evaluations?state=waiting").json()["items"]] == [evaluation]
