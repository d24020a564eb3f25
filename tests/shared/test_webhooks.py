"""Which addresses may be told of jobs, how messages are signed, and what they hold."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from sqlalchemy import select
from standardwebhooks import Webhook as Verifier

from shared.database import Database, database_now
from shared.errors import ConfigurationError, Rejected
from shared.lifecycle import failure, transition
from shared.settings import Settings
from shared.tables import Team, Webhook, WebhookDelivery
from shared.webhooks import checked_url, secret_of, signature, signing_pepper
from tests.rows import add_dataset

ALLOWED = ("hooks.example.org", "*.example.com", "other.example.org:8443", "bücher.example")


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://hooks.example.org/a?b=c", "https://hooks.example.org/a?b=c"),
        ("https://HOOKS.example.org:443", "https://hooks.example.org/"),
        ("https://a.b.example.com/", "https://a.b.example.com/"),
        ("https://other.example.org:8443/", "https://other.example.org:8443/"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
    ],
)
def test_an_allowed_address_is_stored_as_a_browser_reads_it(url: str, stored: str) -> None:
    assert str(checked_url(url, ALLOWED)) == stored


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://hooks.example.org/", "must begin with https://"),
        ("https://user:word@hooks.example.org/", "leave user name and password out"),
        ("https://hooks.example.org/#part", "leave the fragment out"),
        ("https://evil.example.net/", "may not go to evil.example.net; an operator"),
        ("https://example.com/", "may not go to example.com;"),
        ("https://notexample.com/", "may not go to notexample.com;"),
        ("https://hooks.example.org.evil.net/", "may not go to hooks.example.org.evil.net;"),
        ("https://hooks.example.org@evil.net/", "leave user name"),
        ("https://evil.net\\@hooks.example.org/", "may not go to evil.net;"),
        ("https://hooks.example.org:444/", "may not go to hooks.example.org:444;"),
        ("https://other.example.org/", "may not go to other.example.org;"),
        ("https://hooks.example.org./", "may not go to hooks.example.org.;"),
        ("https://127.0.0.1/", "127.0.0.1 is an address"),
        ("https://0x7f.1/", "127.0.0.1 is an address"),
        ("https://2130706433/", "127.0.0.1 is an address"),
        ("https://１２７.0.0.1/", "127.0.0.1 is an address"),
        ("https://[::ffff:127.0.0.1]/", "[::ffff:7f00:1] is an address"),
        ("https://exa mple.com/", "invalid international domain name"),
        ("https://a\x00.example.com/", "invalid international domain name"),
        ("", "input is empty"),
        ("hooks.example.org", "relative URL without a base"),
        ("https://hooks.example.org/" + "x" * 2000, "at most 2000"),
        ("https://" + "a" * 64 + ".example.com/", "1 to 63 between two dots"),
        ("https://a..example.com/", "1 to 63 between two dots"),
    ],
)
def test_an_address_that_may_not_be_told_is_refused_with_the_reason(url: str, said: str) -> None:
    with pytest.raises(Rejected) as refused:
        checked_url(url, ALLOWED)
    assert said in refused.value.detail
    assert refused.value.pointer == "/url"


def test_an_allowed_host_that_is_none_is_the_operators_fault() -> None:
    with pytest.raises(ConfigurationError, match="'not a host' is no host name"):
        checked_url("https://hooks.example.org/", ["not a host"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"key_pepper": "p" * 32}, "SYNTHCLONE_WEBHOOK_HOSTS"),
        ({"webhook_hosts": ["hooks.example.org"]}, "SYNTHCLONE_KEY_PEPPER"),
    ],
)
def test_webhooks_are_off_until_hosts_and_a_pepper_are_set(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        signing_pepper(Settings.model_validate(settings))


def test_a_signature_is_the_one_of_the_specification() -> None:
    # The example of the specification's libraries.
    secret, body = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), b'{"test": 2432232314}'
    found = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_specifications_own_library_accepts_our_secret(pepper: SecretStr) -> None:
    secret = secret_of("wh-1", pepper)
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    signed = Verifier(secret).sign("msg_1", datetime(2026, 1, 1, tzinfo=UTC), "{}")
    assert signed == signature(base64.b64decode(secret.removeprefix("whsec_")), "msg_1", 1767225600, b"{}")


def test_each_webhook_has_a_secret_of_its_own(pepper: SecretStr) -> None:
    secrets = {secret_of("wh-1", pepper), secret_of("wh-2", pepper), secret_of("wh-1", SecretStr("x" * 32))}
    assert len(secrets) == 3


def test_the_end_of_a_job_leaves_one_message_for_each_live_webhook_of_its_team(database: Database) -> None:
    with database.write() as session:
        now = database_now(session)
        session.add(Team(id="others", name="others", created_at=now))
        session.flush()
        for name, team, disabled_at in (("a", "default", None), ("b", "default", now), ("c", "others", None)):
            session.add(Webhook(id=name, team_id=team, url="https://x/", created_at=now, disabled_at=disabled_at))
        job = add_dataset(session, images={"secret-class": 1})
    with database.write() as session:
        transition(session, job.id, "running")
        transition(session, job.id, "partial", error=failure("short", "secret-class 1", retryable=True))
        transition(session, job.id, "failed")
    with database.read() as session:
        (row,) = session.scalars(select(WebhookDelivery)).all()
    assert (row.webhook_id, row.type, row.attempts) == ("a", "job.partial", 0)
    assert row.payload["data"] == {
        "id": job.id,
        "kind": "dataset",
        "state": "partial",
        "error": {"type": "urn:synthclone:problem:short", "retryable": True},
        "links": {"self": f"/jobs/{job.id}"},
    }
    assert "secret" not in json.dumps(row.payload)


def test_a_job_that_could_not_end_leaves_no_message(database: Database) -> None:
    with database.write() as session:
        session.add(Webhook(id="a", team_id="default", url="https://x/", created_at=database_now(session)))
        job = add_dataset(session, images={"a": 1})
    with database.read() as session:  # which is rolled back
        transition(session, job.id, "failed")
        session.flush()
        assert len(session.scalars(select(WebhookDelivery)).all()) == 1
    with database.read() as session:
        assert session.scalars(select(WebhookDelivery)).all() == []


@pytest.mark.postgres
def test_a_webhook_that_is_deleted_at_this_moment_does_not_keep_a_job_from_ending(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite lets one writer in at a time")
    with database.write() as session:
        session.add(Webhook(id="a", team_id="default", url="https://x/", created_at=database_now(session)))
        job = add_dataset(session, images={"a": 1})

    def end_job() -> bool:
        with database.write() as session:
            return transition(session, job.id, "failed")

    with ThreadPoolExecutor() as pool:
        with database.write() as session:
            session.delete(session.get_one(Webhook, "a"))
            session.flush()
            ended = pool.submit(end_job)
            wait([ended], timeout=0.5)
        assert ended.result(10)
