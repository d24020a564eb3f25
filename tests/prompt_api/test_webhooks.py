"""`/webhooks`: made, shown without the secret, forgotten; another team's do not exist."""

from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from pydantic import SecretStr

from shared.database import Database, database_now
from shared.settings import Settings
from shared.tables import Team, Webhook
from shared.webhooks import secret_of
from tests.conftest import ServeApi, changed
from tests.rows import add_job, end

URL = "https://hooks.example.org/a"


@pytest.fixture
def client(serve_api: ServeApi, api_settings: Settings, database: Database, pepper: SecretStr) -> httpx2.Client:
    return serve_api(changed(api_settings, webhook_hosts=["*.example.org"], key_pepper=pepper))


def test_a_new_webhook_shows_its_secret_once(client: httpx2.Client, pepper: SecretStr) -> None:
    made = client.post("/webhooks", json={"url": "https://HOOKS.example.org/a"})
    assert made.status_code == 201
    shown = made.json()
    assert (shown["url"], shown.pop("secret")) == (URL, secret_of(shown["id"], pepper))
    assert client.get("/webhooks").json() == {"items": [shown]}
    assert client.get(f"/webhooks/{shown['id']}").json() == shown | {"deliveries": []}


@pytest.mark.parametrize("url", ["https://evil.example.net/", "http://hooks.example.org/", "https://127.0.0.1/", "x"])
def test_an_address_that_is_not_allowed_is_refused(client: httpx2.Client, url: str) -> None:
    refused = client.post("/webhooks", json={"url": url})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/url"
    assert client.get("/webhooks").json() == {"items": []}


def test_webhooks_that_are_off_say_what_the_operator_sets(api: httpx2.Client) -> None:
    refused = api.post("/webhooks", json={"url": URL})
    assert refused.status_code == 409
    assert "SYNTHCLONE_WEBHOOK_HOSTS" in refused.json()["detail"]


def test_the_same_address_twice_is_refused_with_the_first_ones_id(client: httpx2.Client) -> None:
    first = client.post("/webhooks", json={"url": URL}).json()["id"]
    refused = client.post("/webhooks", json={"url": URL})
    assert refused.status_code == 409
    assert first in refused.json()["detail"]


def test_a_team_has_at_most_ten_webhooks_also_when_it_asks_at_once(client: httpx2.Client) -> None:
    bodies = [{"url": f"https://hooks.example.org/{number}"} for number in range(14)]
    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(lambda body: client.post("/webhooks", json=body).status_code, bodies))
    assert statuses == [201] * 10 + [409] * 4


def test_what_became_of_a_message_is_shown(client: httpx2.Client, database: Database) -> None:
    webhook = client.post("/webhooks", json={"url": URL}).json()["id"]
    with database.write() as session:
        job = add_job(session, "training")
    end(database, job.id, "failed")
    (delivery,) = client.get(f"/webhooks/{webhook}").json()["deliveries"]
    assert delivery["message_id"].startswith(f"msg_{webhook.removeprefix('wh-')}_")
    assert (delivery["type"], delivery["job_id"]) == ("job.failed", job.id)
    assert (delivery["state"], delivery["attempts"], delivery["last_error"]) == ("waiting", 0, None)


def test_a_deleted_webhook_is_forgotten_with_its_messages(client: httpx2.Client, database: Database) -> None:
    webhook = client.post("/webhooks", json={"url": URL}).json()["id"]
    with database.write() as session:
        job = add_job(session, "training")
    end(database, job.id, "failed")
    assert client.delete(f"/webhooks/{webhook}").status_code == 204
    assert client.get(f"/webhooks/{webhook}").status_code == 404
    assert client.delete(f"/webhooks/{webhook}").status_code == 404


def test_another_teams_webhook_does_not_exist(client: httpx2.Client, database: Database) -> None:
    with database.write() as session:
        session.add(Team(id="others", name="others", created_at=database_now(session)))
        session.flush()
        session.add(Webhook(id="wh-theirs", team_id="others", url=URL, created_at=database_now(session)))
    for method in ("GET", "DELETE"):
        theirs, nobodys = (client.request(method, f"/webhooks/{name}") for name in ("wh-theirs", "wh-nobodys"))
        assert theirs.status_code == 404
        assert theirs.text == nobodys.text.replace("wh-nobodys", "wh-theirs")
    assert client.get("/webhooks").json() == {"items": []}
