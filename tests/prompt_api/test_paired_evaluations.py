"""Evaluations that are compared with others, and the files of their reports."""

from hashlib import sha256

import httpx2
import pytest
from pydantic import JsonValue
from sqlalchemy import select

from shared import lifecycle
from shared.database import Database
from shared.storage import ObjectStore
from shared.tables import Job, JobParent, JsonObject

HALF: JsonValue = ["n13742358", "n13742573"]


def made(api: httpx2.Client, path: str, **body: JsonValue) -> str:
    answer = api.post(path, json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def training(api: httpx2.Client, classes: JsonValue = "digits") -> str:
    dataset = made(api, "/datasets", classes=classes, images_per_class=1)
    return made(api, "/trainings", datasets=[dataset])


def end(database: Database, job_id: str, *states: str, result: JsonObject | None = None) -> None:
    with database.write() as session:
        session.get_one(Job, job_id).result = result
        session.flush()
        for state in states:
            assert lifecycle.transition(session, job_id, state)


def test_an_evaluation_waits_for_those_it_is_compared_with(api: httpx2.Client, database: Database) -> None:
    real = made(api, "/trainings", real="digits-train")
    others = [made(api, "/evaluations", training=each) for each in (real, training(api))]
    end(database, real, "running", "succeeded")
    compared = made(api, "/evaluations", training=real, compare_with=others)
    with database.read() as session:
        parents = set(session.scalars(select(JobParent.parent_id).where(JobParent.job_id == compared)))
    assert parents == {real, *others}
    view = api.get(f"/evaluations/{compared}").json()
    assert (view["job"]["state"], view["spec"]["request"]["compare_with"], view["files"]) == ("waiting", others, [])


def test_a_comparison_fails_with_one_that_it_waits_for(api: httpx2.Client, database: Database) -> None:
    real = made(api, "/trainings", real="digits-train")
    first = made(api, "/evaluations", training=real)
    compared = made(api, "/evaluations", training=real, compare_with=[first])
    end(database, first, "failed")
    with database.write() as session:
        lifecycle.release_children(session)
    job = api.get(f"/jobs/{compared}").json()
    assert (job["state"], first in job["error"]["detail"]) == ("failed", True)


def test_only_evaluations_that_can_be_compared_are_taken(api: httpx2.Client, database: Database) -> None:
    whole, half = training(api), training(api, HALF)
    cut = made(api, "/evaluations", training=half)
    lost = made(api, "/evaluations", training=whole)
    end(database, lost, "cancelled")
    refused = {
        cut: f"{cut} is on 2 classes of digits, this one on 10, not the same",
        lost: f"evaluation {lost} was cancelled",
        whole: f"there is no evaluation '{whole}'",
        "ev-none": "there is no evaluation 'ev-none'",
    }
    for other, said in refused.items():
        good = made(api, "/evaluations", training=whole)
        answer = api.post("/evaluations", json={"training": whole, "compare_with": [good, other]})
        assert answer.status_code == 422, answer.text
        fault = answer.json()["errors"][0]
        assert (fault["pointer"], said in fault["detail"]) == ("/compare_with/1", True), fault


def test_evaluations_without_a_common_test_set_cannot_be_compared(api: httpx2.Client, database: Database) -> None:
    """The other one's request is rewritten: a second test set would have to be registered."""
    whole = training(api)
    other = made(api, "/evaluations", training=whole)
    with database.write() as session:
        job = session.get_one(Job, other)
        job.spec = {**job.spec, "request": {"training": whole, "benchmarks": ["letters"]}}
    answer = api.post("/evaluations", json={"training": whole, "compare_with": [other]})
    assert answer.status_code == 422
    assert f"{other} is on letters, this one on digits; only evaluations on a common test set" in answer.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"compare_with": ["ev-1", "ev-1"]}, "ev-1 is named twice"),
        ({"compare_with": ["ev-1"], "benchmarks": [], "transfer": ["pets"]}, "give benchmarks too"),
        ({"compare_with": [f"ev-{number}" for number in range(11)]}, "at most 10"),
    ],
)
def test_what_cannot_be_a_comparison_is_refused_by_its_form(
    api: httpx2.Client, body: dict[str, JsonValue], said: str
) -> None:
    answer = api.post("/evaluations", json={"training": "tr-1", **body})
    assert (answer.status_code, said in answer.text) == (422, True), answer.text


def test_a_comparison_asked_for_again_has_the_same_parents(api: httpx2.Client, database: Database) -> None:
    whole = training(api)
    first = made(api, "/evaluations", training=whole)
    compared = made(api, "/evaluations", training=whole, compare_with=[first])
    end(database, compared, "cancelled")
    again = api.post(f"/jobs/{compared}/retry").json()["id"]
    with database.read() as session:
        parents = set(session.scalars(select(JobParent.parent_id).where(JobParent.job_id == again)))
    assert parents == {whole, first}


def test_the_files_of_a_report_are_served_for_a_browser_to_show_safely(
    api: httpx2.Client, database: Database, store: ObjectStore
) -> None:
    evaluation = made(api, "/evaluations", training=training(api))
    base = f"/evaluations/{evaluation}"
    assert api.get(f"{base}/files/report.html").status_code == 409
    result: JsonObject = {"predictions_key": "p", "predictions_sha256": "s", "summary": {}}
    for name, data in {"report": b'{"benchmarks": []}', "report.html": b"<p>", "bars.png": b"\x89PNG"}.items():
        store.put(f"{base[1:]}/{name}", data)
        result |= {f"{name}_key": f"{base[1:]}/{name}", f"{name}_sha256": sha256(data).hexdigest()}
    end(database, evaluation, "queued", "running", "succeeded", result=result)

    view = api.get(base).json()
    assert view["files"] == ["bars.png", "report.html"]
    assert view["links"]["report.html"] == f"{base}/files/report.html"
    assert api.get(f"{base}/report").json() == {"benchmarks": []}
    page, figure = (api.get(f"{base}/files/{name}") for name in ("report.html", "bars.png"))
    assert (page.content, page.headers["content-type"]) == (b"<p>", "text/html; charset=utf-8")
    assert (figure.content, figure.headers["content-type"]) == (b"\x89PNG", "image/png")
    policy = page.headers["content-security-policy"]
    assert ("default-src 'none'" in policy, "sandbox" in policy, "script" in policy) == (True, True, False)
    missing = api.get(f"{base}/files/sizes.svg")
    assert (missing.status_code, "it has bars.png, report.html" in missing.text) == (404, True)
    assert api.get(f"{base}/files/predictions").status_code == 422
    store.put(f"{base[1:]}/report.html", b"<p>other")
    damaged = api.get(f"{base}/files/report.html")
    assert (damaged.status_code, "ask for the evaluation again" in damaged.text) == (409, True)
