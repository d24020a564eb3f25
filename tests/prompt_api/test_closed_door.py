"""Names, origins, headers and rates: what is refused before a request is looked at, and what every answer says."""

import httpx2
import pytest
from pydantic import SecretStr

from services.prompt_api.app import create_app
from services.prompt_api.keys import create_key
from services.prompt_api.rate_limit import WRONG_KEYS_PER_MINUTE
from shared.database import Database
from shared.settings import Settings
from tests.conftest import ServeApi, changed, serving

DIGITS = {"classes": "digits", "images_per_class": 2}


@pytest.fixture
def keyed(api_settings: Settings, pepper: SecretStr) -> Settings:
    return changed(api_settings, auth="keys", key_pepper=pepper)


def authorized(database: Database, pepper: SecretStr, team: str = "ours") -> dict[str, str]:
    with database.write() as session:
        return {"Authorization": f"Bearer {create_key(session, team, pepper=pepper)}"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("LOCALHOST", 200),
        ("localhost.:80", 200),
        ("[::1]:8000", 200),
        ("rebound.example", 421),
        ("127.0.0.1.rebound.example", 421),
        ("localhost@rebound.example", 421),
        ("rebound.example#localhost", 421),
        ("[::2]", 421),
        ("0.0.0.0", 421),
        ("", 421),
    ],
)
def test_without_keys_only_loopback_names_are_answered(api: httpx2.Client, host: str, status: int) -> None:
    answer = api.get("/jobs", headers={"Host": host})
    assert answer.status_code == status
    assert answer.headers["content-type"] == ("application/json" if status == 200 else "application/problem+json")


def test_with_keys_trusted_hosts_are_answered_and_operators_by_any_name(
    serve_api: ServeApi, keyed: Settings, database: Database
) -> None:
    client = serve_api(changed(keyed, trusted_hosts=("draw.example",)))
    asked = [("draw.example", "/jobs"), ("other.example", "/jobs"), ("10.0.0.7:8000", "/readyz"), ("x", "/livez")]
    statuses = [client.get(path, headers={"Host": host}).status_code for host, path in asked]
    assert statuses[:2] == [401, 421]
    assert 421 not in statuses[2:]


def test_with_keys_and_no_trusted_hosts_every_name_is_answered(
    serve_api: ServeApi, keyed: Settings, database: Database
) -> None:
    assert serve_api(keyed).get("/jobs", headers={"Host": "any.example"}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_from_elsewhere_may_read_its_own_screen_but_change_nothing(
    api: httpx2.Client, headers: dict[str, str]
) -> None:
    answer = api.post("/datasets", json=DIGITS, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:synthclone:problem:foreign-origin")
    assert api.get("/jobs").json()["items"] == []


def test_a_page_of_this_server_may_change_things(api: httpx2.Client) -> None:
    headers = {"Origin": str(api.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert api.post("/datasets", json=DIGITS, headers=headers).status_code == 202


def raise_bug() -> None:
    raise RuntimeError("a bug")


def test_every_answer_carries_the_security_headers(api_settings: Settings, database: Database) -> None:
    app = create_app(api_settings)
    app.add_api_route("/bug", raise_bug)
    with serving(app) as url, httpx2.Client(base_url=url) as client:
        bad_host = client.get("/jobs", headers={"Host": "rebound.example"})
        answers = [bad_host, *(client.get(path) for path in ("/jobs", "/nothing", "/livez", "/openapi.json", "/bug"))]
    assert [answer.status_code for answer in answers] == [421, 200, 404, 200, 200, 500]
    expected = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "cache-control": "no-store",
    }
    for answer in answers:
        assert {name: answer.headers.get(name) for name in expected} == expected
        assert "server" not in answer.headers


def test_an_answer_with_an_etag_may_be_kept_by_its_reader_alone(api: httpx2.Client) -> None:
    job = api.post("/datasets", json=DIGITS).json()["id"]
    answer = api.get(f"/jobs/{job}")
    unchanged = api.get(f"/jobs/{job}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (answer.headers["Cache-Control"], unchanged.status_code) == ("private, no-cache", 304)


def test_one_team_is_held_back_and_others_are_not(
    serve_api: ServeApi, keyed: Settings, database: Database, pepper: SecretStr
) -> None:
    client = serve_api(changed(keyed, requests_per_minute=5))
    ours, theirs = (authorized(database, pepper, team) for team in ("ours", "theirs"))
    statuses = [client.get("/jobs", headers=ours).status_code for _ in range(6)]
    refused = client.get("/jobs", headers=ours)
    assert statuses == [200] * 5 + [429]
    assert (refused.json()["status"], 1 <= int(refused.headers["Retry-After"]) <= 60) == (429, True)
    assert client.get("/jobs", headers=theirs).status_code == 200
    assert [client.get(path).status_code for path in ("/livez", "/metrics")] == [200, 200]


def test_guessing_keys_is_stopped_before_the_database_is_asked(
    serve_api: ServeApi, keyed: Settings, database: Database, pepper: SecretStr
) -> None:
    client, ours = serve_api(keyed), authorized(database, pepper)
    assert client.get("/jobs", headers=ours).status_code == 200
    guesses = [{"Authorization": f"Bearer sk_{n:08d}_guess"} for n in range(WRONG_KEYS_PER_MINUTE + 5)]
    statuses = [client.get("/jobs", headers=guess).status_code for guess in guesses]
    assert statuses == [401] * WRONG_KEYS_PER_MINUTE + [429] * 5
    assert client.get("/jobs", headers=ours).status_code == 200  # its user sits behind the same address
