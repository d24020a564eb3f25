"""Every bad request names the value at fault, and leaves no row behind."""

import httpx2
import pytest
from pydantic import JsonValue
from sqlalchemy import func, select

from services.prompt_api.app import create_app
from shared import lifecycle
from shared.database import Database
from shared.settings import Settings
from shared.tables import Job
from tests.conftest import ServeApi, changed, serving

JSON = {"content-type": "application/json"}
DIGITS: dict[str, JsonValue] = {"classes": "digits", "images_per_class": 2}


def jobs(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


BAD_DATASETS: list[tuple[dict[str, JsonValue], str, str]] = [
    ({"classes": "in101"}, "/classes", "'in101'"),
    ({"classes": ["n02012849", "n03126707", "n02012849"], "model": "sd14"}, "/classes/2", "n02012849 is given twice"),
    ({"classes": ["n02012849", "n99999999"]}, "/classes/1", "n99999999"),
    ({"classes": [{"name": ""}]}, "/classes/0/name", "at least 1 character"),
    ({"classes": 5}, "/classes", "5"),
    ({"prompt": "descriptoin"}, "/prompt", "'descriptoin'"),
    ({"prompt": {"template": "a {nam}"}}, "/prompt/template", "'{nam}'"),
    ({"prompt": "captions"}, "/prompt", "has no captions"),
    ({"scale": 50.1}, "/scale", "50.1"),
    ({"scale": -1}, "/scale", "-1"),
    ({"size": "0x", "images_per_class": None}, "/size", "'0x'"),
    ({"size": "1x"}, "", "size or images_per_class, not both"),
    ({"images_per_class": 10**9}, "/images_per_class", "1000000000"),
    ({"images_per_class": 0}, "/images_per_class", "0"),
    ({"images_per_class": -3}, "/images_per_class", "-3"),
    ({"images_per_class": 10**30}, "/images_per_class", "10000000000000000000"),
    ({"seed": 2**63}, "/seed", str(2**63)),
    ({"steps": -1}, "/steps", "-1"),
    ({"steps": 0}, "/steps", "greater than or equal to 1, not 0"),
    ({"steps": 10_000}, "/steps", "less than or equal to 1000, not 10000"),
    ({"scheduler": "heun"}, "/scheduler", "'pndm', 'dpm++', 'ddim' or 'euler', not 'heun'"),
    ({"width": 100}, "/width", "width 100 is not a multiple of 8; take 96 or 104"),
    ({"height": 33}, "/height", "height 33 is not a multiple of 8; take 32 or 40"),
    ({"width": 0}, "/width", "greater than or equal to 8, not 0"),
    ({"height": 1032}, "/height", "less than or equal to 1024, not 1032"),
    ({"height": 24}, "/height", "height 24 is below 32, the least that model 'digits-sd' can draw"),
    ({"model": "sd14", "width": 56}, "/width", "width 56 is below 64, the least that model 'sd14' can draw"),
    ({"model": "sd99"}, "/model", "'sd99'"),
    ({"classes": "in100"}, "/model", "use model sd14"),
    ({"classes": [{"name": "heron"}]}, "/model", "'digits-sd' cannot draw class heron"),
    ({"guidance": 2}, "/guidance", "guidance"),
    ({"classes": "in1k", "model": "sd14", "images_per_class": 10**6}, "/images_per_class", "1,000,000,000 images"),
    ({"classes": "in1k", "model": "sd14", "size": "1000x", "images_per_class": None}, "/size", "1,300,000,000"),
]


@pytest.mark.parametrize(("change", "pointer", "named"), BAD_DATASETS)
def test_a_bad_dataset_is_refused_by_name(
    api: httpx2.Client, database: Database, change: dict[str, JsonValue], pointer: str, named: str
) -> None:
    answer = api.post("/datasets", json={**DIGITS, **change})
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert named in problem["detail"]
    assert pointer in [item["pointer"] for item in problem["errors"]]
    assert problem["instance"] == "/datasets"
    assert jobs(database) == 0


@pytest.mark.parametrize(
    ("body", "headers", "status", "named"),
    [
        (b'{"classes":"digits","scale":NaN}', JSON, 422, "scale"),
        (b'{"classes":"digits","scale":1e999}', JSON, 422, "scale"),
        (b'{"classes":"digits"', JSON, 400, "character 19"),
        (b"", JSON, 422, "no body"),
        (b"[" * 100_000, JSON, 400, "body"),
        (b'{"classes":["\\u0000"]}', JSON, 422, "WordNet id"),
        (b'{"classes":"\\ud800"}', JSON, 422, "classes"),
        (b'{"classes":"digits"}', {"content-type": "text/plain"}, 415, "'text/plain'"),
        (b"classes=digits", {"content-type": "application/x-www-form-urlencoded"}, 415, "urlencoded"),
        (b'{"classes":"digits"}', {}, 415, "''"),
        (b'{"classes":"digits"}', {**JSON, "Idempotency-Key": "a" * 256}, 422, "Idempotency-Key"),
    ],
)
def test_a_bad_body_is_refused(
    api: httpx2.Client, database: Database, body: bytes, headers: dict[str, str], status: int, named: str
) -> None:
    answer = api.post("/datasets", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert named.casefold() in answer.json()["detail"].casefold()
    assert jobs(database) == 0


def test_a_key_with_another_body_is_refused(api: httpx2.Client, database: Database) -> None:
    headers = {"Idempotency-Key": "used"}
    api.post("/datasets", json=DIGITS, headers=headers)
    answer = api.post("/datasets", json={**DIGITS, "scale": 3}, headers=headers)
    assert (answer.status_code, "'used'" in answer.json()["detail"]) == (422, True)
    assert jobs(database) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_past_the_limit_is_refused_while_it_arrives(
    serve_api: ServeApi, api_settings: Settings, chunked: bool
) -> None:
    client = serve_api(changed(api_settings, max_body_bytes=1000))
    body = b'{"classes":"' + b"a" * 2000 + b'"}'
    content = iter([body[:1000], body[1000:]]) if chunked else body
    answer = client.post("/datasets", content=content, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    assert "1000 bytes" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/ds-00000000000000000000000000",
        "/jobs/%00",
        "/jobs/ds-%00/classes",
        "/jobs/nothing/events",
        "/datasets/tr-1",
        "/datasets/ds-1/manifest",
        "/datasets/ds-1/images/n0/0",
        "/trainings/ds-1",
        "/evaluations/%F0%9F%A6%A9",
        "/evaluations/ev-1/report",
        "/class-lists/in2k",
        "/nothing",
    ],
)
def test_an_unknown_address_is_a_404_problem(api: httpx2.Client, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.json()["status"]) == (404, 404)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("action", ["cancel", "retry"])
def test_an_unknown_job_can_be_neither_cancelled_nor_retried(
    api: httpx2.Client, database: Database, action: str
) -> None:
    answer = api.post(f"/jobs/ds-00000000000000000000000000/{action}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "ds-00000000000000000000000000" in answer.json()["detail"]
    assert jobs(database) == 0


def raise_bug() -> None:
    raise RuntimeError("cannot read /etc/secret with password hunter2")


def test_a_bug_is_a_500_problem_that_gives_nothing_away(api_settings: Settings) -> None:
    app = create_app(api_settings)
    app.add_api_route("/bug", raise_bug)
    with serving(app) as url:
        answer = httpx2.get(f"{url}/bug")
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert (problem["status"], problem["instance"], "log" in problem["detail"]) == (500, "/bug", True)
    assert not any(word in answer.text for word in ("secret", "hunter2", "raise_bug", "Traceback"))


@pytest.mark.parametrize("query", ["cursor=%00", "state=asleep", "limit=0", "limit=1000000", "kind=images"])
def test_a_bad_query_is_a_422_problem(api: httpx2.Client, query: str) -> None:
    answer = api.get(f"/jobs?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_a_wrong_method_is_a_405_problem_that_allows_the_right_one(api: httpx2.Client) -> None:
    answer = api.delete("/jobs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.json()["detail"] == "DELETE is not possible on /jobs"


@pytest.mark.parametrize(("classes", "more"), [(100, "and 180 more"), (20_000, "and many more")])
def test_only_the_first_of_thousands_of_faults_are_told(api: httpx2.Client, classes: int, more: str) -> None:
    answer = api.post("/datasets", json={"classes": [{"name": "", "hypernym": ""} for _ in range(classes)]})
    assert len(answer.json()["errors"]) == 20
    assert more in answer.json()["detail"]


def test_cancelling_twice_is_fine_until_the_job_has_ended(api: httpx2.Client, database: Database) -> None:
    job_id = api.post("/datasets", json=DIGITS).json()["id"]
    assert [api.post(f"/jobs/{job_id}/cancel").status_code for _ in range(2)] == [202, 202]
    with database.write() as session:
        lifecycle.transition(session, job_id, "cancelled")
    answer = api.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, "already cancelled" in answer.json()["detail"]) == (409, True)


def test_only_a_job_that_ended_badly_can_be_retried(api: httpx2.Client, database: Database) -> None:
    job_id = api.post("/datasets", json=DIGITS).json()["id"]
    answer = api.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, "is queued" in answer.json()["detail"]) == (409, True)
    assert jobs(database) == 1
