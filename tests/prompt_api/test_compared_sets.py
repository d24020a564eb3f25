"""Evaluations that compare a dataset with a real set: what they wait for, and what is refused beforehand."""

import httpx2
import pytest
from pydantic import JsonValue
from sqlalchemy import select, update

from services.dispatcher.tick import tick
from shared import lifecycle
from shared.database import Database, database_now
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import DatasetClass, Job, JobParent, RealImageSet

SMALL = ("n13742358", "n13742573")


@pytest.fixture
def dataset(api: httpx2.Client) -> str:
    return make_dataset(api, "digits", 50)


@pytest.fixture
def training(api: httpx2.Client) -> str:
    return str(api.post("/trainings", json={"real": "digits-train", "steps": 7}).json()["id"])


def make_dataset(api: httpx2.Client, classes: JsonValue, images: int, **fields: JsonValue) -> str:
    body = {"classes": classes, "images_per_class": images, **fields}
    return str(api.post("/datasets", json=body).json()["id"])


def asked(training: str, *pairs: dict[str, JsonValue], **fields: JsonValue) -> dict[str, JsonValue]:
    return {"training": training, "distances": list(pairs), **fields}


def end(database: Database, job_id: str, state: str) -> None:
    with database.write() as session:
        assert lifecycle.transition(session, job_id, state)


def parents(database: Database, job_id: str) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(JobParent.parent_id).where(JobParent.job_id == job_id)))


def add_set(database: Database, name: str, role: str, class_ids: list[str]) -> None:
    with database.write() as session:
        row = RealImageSet(name=name, role=role, location="/x", class_ids=class_ids, images=900, digest="d", crop_pct=1)
        row.created_at = database_now(session)
        session.add(row)


def refused(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["errors"][0]["pointer"]


def test_a_comparison_waits_for_the_dataset_and_the_training(
    api: httpx2.Client, database: Database, dataset: str, training: str
) -> None:
    pairs = (
        {"dataset": dataset, "real": "digits", "images": 400},
        {"dataset": dataset, "real": "digits-train", "images": 500},
    )
    job = api.post("/evaluations", json=asked(training, *pairs)).json()
    assert (job["state"], job["counts"]["total"]) == ("waiting", 2)
    assert job["summary"] == f"{training} used to compare {dataset} with digits, {dataset} with digits-train"
    assert parents(database, job["id"]) == {training, dataset}


def test_a_comparison_is_queued_once_both_have_ended(
    api: httpx2.Client, database: Database, store: LocalStore, dataset: str, training: str
) -> None:
    pair: dict[str, JsonValue] = {"dataset": dataset, "real": "digits", "images": 400}
    job = api.post("/evaluations", json=asked(training, pair, benchmarks=["digits"])).json()
    assert job["summary"] == f"{training} tested on digits and used to compare {dataset} with digits"
    for parent, state in ((training, "waiting"), (dataset, "queued")):
        for step in ("running", "succeeded"):
            end(database, parent, step)
        tick(database, store, Settings(), absent={})
        assert api.get(f"/jobs/{job['id']}").json()["state"] == state


@pytest.mark.parametrize(
    ("pair", "pointer", "named"),
    [
        ({"dataset": "ds-1"}, "/distances/0/dataset", "'ds-1'"),
        ({"real": "cifar"}, "/distances/0/real", "'cifar'"),
        ({"real": "mine"}, "/distances/0/real", "mine is registered as a transfer set"),
        ({"real": "cats"}, "/distances/0/real", "has no class of cats"),
        ({"images": 501}, "/distances/0/images", "has 500 images to compare, fewer than the 501"),
        (
            {"images": 541, "dataset": "large"},
            "/distances/0/images",
            "digits has 540 images to compare, fewer than the 541",
        ),
        ({"images": 9}, "/distances/0/images", "greater than or equal to 10"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(
    api: httpx2.Client,
    database: Database,
    dataset: str,
    training: str,
    pair: dict[str, JsonValue],
    pointer: str,
    named: str,
) -> None:
    add_set(database, "mine", "transfer", list(SMALL))
    add_set(database, "cats", "test", ["cat"])
    if pair.get("dataset") == "large":
        pair = {**pair, "dataset": make_dataset(api, "digits", 100)}
    answer = api.post(
        "/evaluations", json=asked(training, {"dataset": dataset, "real": "digits", "images": 100, **pair})
    )
    assert refused(answer) == (422, pointer), answer.text
    assert named in answer.json()["detail"]


def test_the_second_pair_is_the_one_that_is_pointed_at(api: httpx2.Client, dataset: str, training: str) -> None:
    good: dict[str, JsonValue] = {"dataset": dataset, "real": "digits", "images": 100}
    assert refused(api.post("/evaluations", json=asked(training, good, {**good, "real": "x"}))) == (
        422,
        "/distances/1/real",
    )
    other = {**good, "real": "digits-train", "dataset": training}
    assert refused(api.post("/evaluations", json=asked(training, good, other))) == (422, "/distances/1/dataset")


def test_only_images_of_shared_classes_count(api: httpx2.Client, training: str) -> None:
    dataset = make_dataset(api, [*SMALL, "n02123045"], 30, model="sd14")
    pair: dict[str, JsonValue] = {"dataset": dataset, "real": "digits"}
    answer = api.post("/evaluations", json=asked(training, {**pair, "images": 61}))
    assert "has 60 images to compare" in answer.json()["detail"]
    assert api.post("/evaluations", json=asked(training, {**pair, "images": 60})).status_code == 202


def test_of_a_dataset_that_ended_short_only_what_it_has_counts(
    api: httpx2.Client, database: Database, dataset: str, training: str
) -> None:
    with database.write() as session:
        session.execute(update(DatasetClass).values(done=20))
    end(database, dataset, "partial")
    answer = api.post("/evaluations", json=asked(training, {"dataset": dataset, "real": "digits", "images": 201}))
    assert "has 200 images to compare, fewer than the 201" in answer.json()["detail"]


def test_a_dataset_that_failed_cannot_be_compared(
    api: httpx2.Client, database: Database, dataset: str, training: str
) -> None:
    end(database, dataset, "failed")
    answer = api.post("/evaluations", json=asked(training, {"dataset": dataset, "real": "digits", "images": 100}))
    assert refused(answer) == (422, "/distances/0/dataset")
    assert f"POST /jobs/{dataset}/retry" in answer.json()["detail"]


def test_a_retried_comparison_keeps_parents_of_both_kinds(
    api: httpx2.Client, database: Database, dataset: str, training: str
) -> None:
    pair: dict[str, JsonValue] = {"dataset": dataset, "real": "digits", "images": 100}
    job = api.post("/evaluations", json=asked(training, pair)).json()["id"]
    end(database, job, "failed")
    again = api.post(f"/jobs/{job}/retry").json()
    assert (again["state"], parents(database, again["id"])) == ("waiting", {training, dataset})
    with database.read() as session:
        assert session.get_one(Job, again["id"]).spec == session.get_one(Job, job).spec
    end(database, again["id"], "failed")
    end(database, dataset, "cancelled")
    answer = api.post(f"/jobs/{again['id']}/retry")
    assert (answer.status_code, dataset in answer.json()["detail"]) == (422, True)
