"""Probes: accepted while their dataset is drawn, refused when no curve could come of them."""

import json
from hashlib import sha256

import httpx2
import pytest
from pydantic import JsonValue
from sqlalchemy import func, select

from shared import lifecycle
from shared.database import Database
from shared.probes import ProbeSpec
from shared.storage import ObjectStore
from shared.tables import Job, JobParent, JsonObject

HUNDRED = {"classes": "digits", "images_per_class": 100}


@pytest.fixture
def dataset(api: httpx2.Client) -> str:
    return str(api.post("/datasets", json=HUNDRED).json()["id"])


def ask(api: httpx2.Client, dataset: str, **fields: JsonValue) -> httpx2.Response:
    return api.post("/probes", json={"dataset": dataset, "benchmark": "digits", **fields})


def end(database: Database, job_id: str, *states: str, result: JsonObject | None = None) -> None:
    with database.write() as session:
        session.get_one(Job, job_id).result = result
        session.flush()
        for state in states:
            assert lifecycle.transition(session, job_id, state)


def jobs(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def test_a_probe_waits_for_its_dataset(api: httpx2.Client, database: Database, dataset: str) -> None:
    answer = ask(api, dataset)
    job = answer.json()
    assert (answer.status_code, job["state"], job["counts"]["total"], job["kind"]) == (202, "waiting", 9, "probe")
    assert job["summary"] == f"{dataset} probed with 1 %, 5 %, 10 % of its 1,000 images on digits"
    assert job["links"]["probe"] == f"/probes/{job['id']}"
    with database.read() as session:
        assert session.scalars(select(JobParent.parent_id).where(JobParent.job_id == job["id"])).all() == [dataset]


def test_the_network_is_frozen_with_the_probe(api: httpx2.Client, dataset: str) -> None:
    probe = api.get(f"/probes/{ask(api, dataset, repeats=2).json()['id']}").json()
    spec = ProbeSpec.model_validate(probe["spec"])
    assert (spec.images, spec.sizes, len(spec.class_ids)) == (1000, (10, 50, 100), 10)
    assert (spec.architecture, spec.image_size, spec.steps) == ("test_resnet", 32, 300)
    assert (spec.recipe.name, spec.recipe.warmup_steps, spec.recipe.flip) == ("probe", 15, False)
    assert (probe["result"], probe["job"]["state"]) == (None, "waiting")


def test_a_probe_of_a_finished_dataset_is_queued(api: httpx2.Client, database: Database, dataset: str) -> None:
    end(database, dataset, "partial")
    assert ask(api, dataset).json()["state"] == "queued"


BAD_PROBES: list[tuple[dict[str, JsonValue], str, str]] = [
    ({"dataset": "ds-unknown"}, "'ds-unknown'", "/dataset"),
    ({"benchmark": "digits-train"}, "registered as a training set", "/benchmark"),
    ({"benchmark": "imagenet"}, "unknown real image set 'imagenet'", "/benchmark"),
    ({"shares": [0.01, 0.1]}, "at least 3", "/shares"),
    ({"shares": [0.01, 0.1, 0.1]}, "name one share twice", ""),
    ({"shares": [0.1, 0.5, 1]}, "less than 1", "/shares/2"),
    ({"shares": [0.05, 0.001, 0.1]}, "share 0.001 of 100 images", "/shares/1"),
    ({"shares": [0.1, 0.101, 0.2]}, "they must all differ", "/shares"),
    ({"shares": [0.1, 0.12, 0.15]}, "2 times the smallest", "/shares"),
    ({"repeats": 0}, "repeats", "/repeats"),
]


@pytest.mark.parametrize(("body", "named", "pointer"), BAD_PROBES)
def test_a_bad_probe_is_refused_by_name(
    api: httpx2.Client, database: Database, dataset: str, body: dict[str, JsonValue], named: str, pointer: str
) -> None:
    answer = api.post("/probes", json={"dataset": dataset, "benchmark": "digits", **body})
    assert (answer.status_code, named in answer.text) == (422, True), answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert jobs(database) == 1


def test_a_benchmark_without_a_class_of_the_dataset_is_refused(api: httpx2.Client) -> None:
    body = {"classes": ["n02123045", "n02123159"], "images_per_class": 100, "model": "sd14"}
    answer = ask(api, api.post("/datasets", json=body).json()["id"])
    assert (answer.status_code, "has no class of benchmark digits" in answer.text) == (422, True)


def test_large_images_are_probed_small(api: httpx2.Client) -> None:
    body = {"classes": ["n13742358", "n13742573"], "images_per_class": 100, "model": "sd14"}
    probe = ask(api, api.post("/datasets", json=body).json()["id"]).json()["id"]
    assert api.get(f"/probes/{probe}").json()["spec"]["image_size"] == 64


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_probe_of_a_dataset_that_ended_badly_is_refused(
    api: httpx2.Client, database: Database, dataset: str, state: str
) -> None:
    end(database, dataset, state)
    answer = ask(api, dataset)
    assert (answer.status_code, f"POST /jobs/{dataset}/retry" in answer.text) == (422, True)


def test_the_report_is_read_once_the_probe_succeeded(
    api: httpx2.Client, database: Database, store: ObjectStore, dataset: str
) -> None:
    probe = ask(api, dataset).json()["id"]
    assert api.get(f"/probes/{probe}/report").status_code == 409
    data = json.dumps({"prediction": {"top1": 0.9}}).encode()
    store.put("probes/report.json", data)
    key: JsonObject = {"report_key": "probes/report.json", "report_sha256": sha256(data).hexdigest()}
    end(database, probe, "queued", "running", "succeeded", result={**key, "summary": {"top1": 0.9}})
    assert api.get(f"/probes/{probe}/report").json() == {"prediction": {"top1": 0.9}}
    assert api.get(f"/probes/{probe}").json()["result"]["summary"] == {"top1": 0.9}
    store.delete("probes/report.json")
    assert api.get(f"/probes/{probe}/report").status_code == 409


def test_a_retried_probe_keeps_its_spec_and_its_dataset(api: httpx2.Client, database: Database, dataset: str) -> None:
    probe = ask(api, dataset).json()["id"]
    end(database, probe, "failed")
    again = api.post(f"/jobs/{probe}/retry").json()
    with database.read() as session:
        old, new = session.get_one(Job, probe), session.get_one(Job, again["id"])
        parents = session.scalars(select(JobParent.parent_id).where(JobParent.job_id == again["id"])).all()
    assert (new.spec, new.total, new.state, parents) == (old.spec, 9, "waiting", [dataset])


def test_probes_are_listed_and_counted_apart(api: httpx2.Client, dataset: str) -> None:
    probe = ask(api, dataset).json()["id"]
    assert [job["id"] for job in api.get("/probes").json()["items"]] == [probe]
    assert [job["id"] for job in api.get("/jobs?kind=probe&state=waiting").json()["items"]] == [probe]
    assert api.get("/usage").json()["probe"]["jobs"] == 1
