"""Experiments: all jobs in one transaction, cancelled together, and of a retry only what is lacking."""

import json
from collections import Counter
from hashlib import sha256

import httpx2
import pytest
from pydantic import JsonValue
from sqlalchemy import func, select

from shared import lifecycle
from shared.classes import listed_wnids
from shared.database import Database
from shared.storage import ObjectStore
from shared.tables import DatasetClass, Job, JobParent, JsonObject
from tests.teams import limit

DIGITS = listed_wnids("digits")
ASKED: dict[str, JsonValue] = {
    "name": "digits",
    "classes": "digits",
    "grids": [{"prompts": ["description"], "scales": [2, 7.5], "images_per_class": [2]}],
    "real": ["digits-train"],
    "training": {"architecture": "test_resnet", "steps": 7, "flip": False},
    "seeds": [0, 1],
    "benchmarks": ["digits"],
    "priority": 3,
}


@pytest.fixture
def experiment(api: httpx2.Client) -> str:
    return made(api)


def made(api: httpx2.Client, **changes: JsonValue) -> str:
    answer = api.post("/experiments", json={**ASKED, **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def kinds(database: Database) -> Counter[str]:
    with database.read() as session:
        return Counter(session.scalars(select(Job.kind)))


def ids_of(view: dict[str, list[dict[str, dict[str, str]]]], part: str) -> list[str]:
    return [arm[part]["id"] for arm in view["arms"]]


def end(database: Database, job_id: str, state: str, *, result: JsonObject | None = None) -> None:
    with database.write() as session:
        session.get_one(Job, job_id).result = result
        session.flush()
        if session.get_one(Job, job_id).state == "waiting":
            lifecycle.transition(session, job_id, "queued")
        assert lifecycle.transition(session, job_id, state)


def release(database: Database) -> None:
    with database.write() as session:
        lifecycle.release_children(session)


def test_one_request_makes_every_job_with_its_parents(api: httpx2.Client, database: Database, experiment: str) -> None:
    assert kinds(database) == {"dataset": 2, "training": 6, "evaluation": 6, "experiment": 1}
    view = api.get(f"/experiments/{experiment}").json()
    assert view["job"]["state"] == "waiting"
    assert view["job"]["summary"] == "digits: 2 datasets and 1 real set, 6 trainings tested on digits"
    assert [(arm["trained_on"], arm["seed"]) for arm in view["arms"][:3]] == [
        ("description, guidance 2, 2 per class", 0),
        ("description, guidance 7.5, 2 per class", 0),
        ("real: digits-train", 0),
    ]
    arm = view["arms"][0]
    with database.read() as session:
        parents = {
            job_id: set(session.scalars(select(JobParent.parent_id).where(JobParent.job_id == job_id)))
            for job_id in (experiment, arm["evaluation"]["id"], arm["training"]["id"])
        }
        training = session.get_one(Job, view["arms"][3]["training"]["id"])
    assert parents == {
        experiment: set(ids_of(view, "evaluation")),
        arm["evaluation"]["id"]: {arm["training"]["id"]},
        arm["training"]["id"]: {arm["dataset"]["id"]},
    }
    request = training.spec["request"]
    assert isinstance(request, dict)
    assert (request["seed"], request["steps"], training.priority) == (1, 7, 3)


def test_the_same_key_makes_the_experiment_once(api: httpx2.Client, database: Database) -> None:
    answers = [api.post("/experiments", json=ASKED, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["Idempotency-Replayed"] == "true"
    assert kinds(database)["experiment"] == 1


BAD: list[tuple[dict[str, JsonValue], str, str]] = [
    ({"classes": "in101"}, "/classes", "in101"),
    ({"grids": [{"prompts": ["name"]}, {"prompts": ["name"], "models": ["nosuch"]}]}, "/grids/1", "nosuch"),
    ({"real": ["digits-train", "nosuch"]}, "/real/1", "nosuch"),
    ({"real": ["digits"]}, "/real/0", "registered as a test set"),
    ({"grids": [], "training": {"recipe": "nosuch"}}, "/training", "nosuch"),
    ({"training": {"recipe": "nosuch"}}, "/training", "nosuch"),
    ({"training": None, "trainings": {"a": {}, "b": {"architecture": "res net"}}}, "/trainings/b", "res net"),
    ({"training": {"steps": 0}}, "/training/steps", "greater than"),
    ({"benchmarks": ["digits", "nosuch"]}, "/benchmarks", "nosuch"),
    ({"transfer": ["digits-train"]}, "/transfer/0", "registered as a training set"),
    ({"classes": [*DIGITS[:9]]}, "/real/0", "digits-train has other classes than the experiment"),
    ({"classes": "in100", "grids": []}, "/real/0", "digits-train has other classes than the experiment"),
    ({"budget": 39}, "/budget", "would draw 40 images, its budget is 39"),
]


@pytest.mark.parametrize(("changes", "pointer", "named"), BAD)
def test_a_bad_experiment_changes_nothing_and_its_fault_is_named(
    api: httpx2.Client, database: Database, changes: dict[str, JsonValue], pointer: str, named: str
) -> None:
    answer = api.post("/experiments", json={**ASKED, **changes})
    assert answer.status_code == 422, answer.text
    error = answer.json()["errors"][0]
    assert error["pointer"].startswith(pointer), error
    assert named in error["detail"]
    assert kinds(database) == {}
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(DatasetClass)) == 0


def test_a_dry_run_counts_and_makes_nothing(api: httpx2.Client, database: Database) -> None:
    asked = {**ASKED, "real": ["my-photos"]}
    found = api.post("/experiments?dry_run=true&images_per_second=4", json=asked).json()
    assert (found["jobs"], found["drawn_images"], found["images_per_second"]) == (2 + 6 + 6 + 1, 40, 4)
    assert [need["name"] for need in found["needs"] if need["remedy"]] == ["my-photos"]
    assert api.post("/experiments?dry_run=true", json={**asked, "budget": 39}).status_code == 422
    others = {**asked, "classes": [*DIGITS[:9]], "real": ["my-photos", "digits-train"]}
    assert api.post("/experiments?dry_run=true", json=others).json()["errors"][0]["pointer"] == "/real/1"
    assert kinds(database) == {}


def test_the_team_limits_count_all_jobs_of_an_experiment(api: httpx2.Client, database: Database) -> None:
    limit(database, "default", max_live_jobs=14)
    beyond = api.post("/experiments", json=ASKED)
    assert (beyond.status_code, "15 jobs" in beyond.json()["detail"]) == (403, True), beyond.text
    limit(database, "default", max_live_jobs=15)
    api.post("/datasets", json={"classes": "digits", "images_per_class": 1})
    full = api.post("/experiments", json=ASKED)
    assert (full.status_code, "has 1 jobs" in full.json()["detail"]) == (429, True), full.text
    assert kinds(database) == {"dataset": 1}
    limit(database, "default", max_live_jobs=16)
    assert api.post("/experiments", json=ASKED).status_code == 202


def test_bytes_of_shared_images_are_counted_once(api: httpx2.Client, database: Database) -> None:
    # Twenty images of 1600 bytes, of which the smaller dataset is a part.
    grids: JsonValue = [{"prompts": ["name"], "images_per_class": [1, 2]}]
    limit(database, "default", max_stored_bytes=20 * 1600)
    assert api.post("/experiments", json={**ASKED, "grids": grids}).status_code == 202
    limit(database, "default", max_stored_bytes=20 * 1600 - 1)
    assert api.post("/experiments?dry_run=true", json={**ASKED, "grids": grids}).status_code == 403


def test_cancelling_an_experiment_cancels_its_unfinished_jobs(
    api: httpx2.Client, database: Database, experiment: str
) -> None:
    view = api.get(f"/experiments/{experiment}").json()
    done, other = ids_of(view, "training")[2], made(api)
    end(database, done, "running")
    end(database, done, "succeeded")
    assert api.post(f"/jobs/{experiment}/cancel").json()["state"] == "cancelled"
    states = {job["id"]: job["state"] for job in api.get("/jobs?limit=500").json()["items"]}
    assert states[done] == "succeeded"
    assert {states[job_id] for job_id in ids_of(view, "evaluation")} == {"cancelled"}
    # A queued dataset is asked to stop: the dispatcher ends it.
    assert all(api.get(f"/jobs/{arm['dataset']['id']}").json()["cancel_requested"] for arm in view["arms"][:2])
    unharmed = api.get(f"/experiments/{other}").json()
    assert not any(api.get(f"/jobs/{part}").json()["cancel_requested"] for part in ids_of(unharmed, "training"))


def test_a_retry_makes_only_what_failed_again(api: httpx2.Client, database: Database, experiment: str) -> None:
    """Of four datasets' arms one dataset failed, of the real arms one evaluation."""
    view = api.get(f"/experiments/{experiment}").json()
    failed, drawn = view["arms"][0]["dataset"]["id"], view["arms"][1]["dataset"]["id"]
    end(database, failed, "failed")
    end(database, drawn, "partial")
    release(database)  # fails the trainings of the first
    release(database)  # and their evaluations
    for arm in view["arms"]:
        if arm["dataset"] is None or arm["dataset"]["id"] == drawn:
            end(database, arm["training"]["id"], "succeeded")
    lost = view["arms"][5]["evaluation"]["id"]
    for job_id in ids_of(view, "evaluation"):
        if api.get(f"/jobs/{job_id}").json()["state"] == "waiting":
            end(database, job_id, "failed" if job_id == lost else "succeeded")
    end(database, experiment, "partial")

    again = api.post(f"/jobs/{experiment}/retry").json()
    assert again["links"]["retry_of"] == f"/jobs/{experiment}"
    new = api.get(f"/experiments/{again['id']}").json()
    kept = [
        {part: old[part] and old[part]["id"] == arm[part]["id"] for part in ("dataset", "training", "evaluation")}
        for old, arm in zip(view["arms"], new["arms"], strict=True)
    ]
    nothing, everything = (dict.fromkeys(("dataset", "training", "evaluation"), value) for value in (False, True))
    assert kept[:3] == [nothing, everything, {**everything, "dataset": None}]
    assert kept[3:] == [nothing, everything, {"dataset": None, "training": True, "evaluation": False}]
    assert kinds(database) == {"dataset": 3, "training": 8, "evaluation": 9, "experiment": 2}
    with database.read() as session:
        training = session.get_one(Job, new["arms"][0]["training"]["id"])
        parents = session.scalars(select(JobParent.parent_id).where(JobParent.job_id == training.id)).all()
    request = training.spec["request"]
    assert isinstance(request, dict)
    assert (request["datasets"], parents) == ([new["arms"][0]["dataset"]["id"]], [new["arms"][0]["dataset"]["id"]])
    assert new["arms"][0]["dataset"]["id"] == new["arms"][3]["dataset"]["id"]


def test_an_experiment_that_goes_on_cannot_be_retried(api: httpx2.Client, experiment: str) -> None:
    assert api.post(f"/jobs/{experiment}/retry").status_code == 409


def test_the_report_and_its_files_are_read_once_it_ended(
    api: httpx2.Client, database: Database, store: ObjectStore, experiment: str
) -> None:
    base = f"/experiments/{experiment}"
    assert [api.get(f"{base}/{path}").status_code for path in ("report", "files/report.html")] == [409, 409]
    result: JsonObject = {"failed": 1}
    for name, data in {"report": b'{"rows": []}', "report.html": b"<p>", "prompts.svg": b"<svg/>"}.items():
        key = f"experiments/{experiment}/{name}"
        store.put(key, data)
        result |= {f"{name}_key": key, f"{name}_sha256": sha256(data).hexdigest()}
    end(database, experiment, "partial", result=result)
    assert api.get(f"{base}/report").json() == {"rows": []}
    assert api.get(base).json()["files"] == ["prompts.svg", "report.html"]
    page, figure = api.get(f"{base}/files/report.html"), api.get(f"{base}/files/prompts.svg")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert figure.headers["content-type"] == "image/svg+xml"
    for answer in (page, figure):
        policy = answer.headers["content-security-policy"]
        assert ("default-src 'none'" in policy, "sandbox" in policy, "script" in policy) == (True, True, False)
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert api.get(f"{base}/files/sizes.svg").status_code == 404
    assert api.get(f"{base}/files/..%2freport.html").status_code in (404, 422)
    store.put(f"experiments/{experiment}/report", json.dumps({"rows": [1]}).encode())
    assert api.get(f"{base}/report").status_code == 409


def test_experiments_have_a_list_of_their_own(api: httpx2.Client, experiment: str) -> None:
    assert [job["id"] for job in api.get("/experiments").json()["items"]] == [experiment]
    assert [job["id"] for job in api.get("/jobs?kind=experiment").json()["items"]] == [experiment]
    assert api.get("/experiments?state=failed").json()["items"] == []
