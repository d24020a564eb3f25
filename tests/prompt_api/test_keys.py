"""API keys: scopes, expiry, rotation, and what a caller or a reader of logs can learn from them."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select, update

from services.prompt_api.keys import MissingScope, Scope, create_key, find_caller, list_keys, revoke_key, rotate_key
from shared.database import Database, database_now
from shared.errors import ConfigurationError, Conflict, NotFound, Unauthorized
from shared.schema import upgrade
from shared.settings import PROJECT_ROOT, Settings
from shared.tables import ApiKey
from tests.conftest import ServeApi, changed
from tests.teams import PEPPER, bearer, key_of

DIGITS = {"classes": "digits", "images_per_class": 2}


@pytest.fixture
def closed_api(serve_api: ServeApi, api_settings: Settings, database: Database) -> httpx2.Client:
    return serve_api(changed(api_settings, auth="keys", key_pepper=PEPPER))


def prefix_of(key: str) -> str:
    return key.split("_")[1]


def change(database: Database, key: str, **values: object) -> None:
    with database.write() as session:
        session.execute(update(ApiKey).where(ApiKey.prefix == prefix_of(key)).values(**values))


def row_of(database: Database, key: str) -> ApiKey:
    with database.read() as session:
        return session.scalars(select(ApiKey).where(ApiKey.prefix == prefix_of(key))).one()


@pytest.mark.parametrize(
    ("scope", "looking", "changing"), [("read", 200, 403), ("write", 403, 202)], ids=["read only", "write only"]
)
def test_a_key_may_do_only_what_its_scope_says(
    closed_api: httpx2.Client, database: Database, scope: Scope, looking: int, changing: int
) -> None:
    headers = bearer(key_of(database, "ours", scopes=[scope]))
    answers = [closed_api.get("/jobs", headers=headers), closed_api.post("/datasets", json=DIGITS, headers=headers)]
    assert [answer.status_code for answer in answers] == [looking, changing]
    refused = next(answer.json() for answer in answers if answer.status_code == 403)
    assert refused["type"] == "urn:synthclone:problem:missing-scope"
    assert f"only {scope}" in refused["detail"]


def test_unknown_expired_revoked_and_wrong_keys_get_one_answer(closed_api: httpx2.Client, database: Database) -> None:
    keys = [key_of(database, "ours") for _ in range(3)]
    with database.write() as session:
        now = database_now(session)
    change(database, keys[0], expires_at=now - timedelta(seconds=1))
    change(database, keys[1], revoked_at=now)
    keys[2] = keys[2][:-2] + ("AA" if keys[2][-2:] != "AA" else "BB")
    bodies = set()
    for key in [*keys, f"sk_00000000_{keys[0].split('_', 2)[2]}"]:
        answer = closed_api.get("/jobs", headers=bearer(key))
        assert answer.status_code == 401
        bodies.add(answer.text.replace(prefix_of(key), "PREFIX"))
    assert len(bodies) == 1


def test_a_key_works_until_it_expires(closed_api: httpx2.Client, database: Database) -> None:
    with database.write() as session:
        key = create_key(session, "ours", pepper=PEPPER, lifetime=timedelta(hours=1))
    assert closed_api.get("/jobs", headers=bearer(key)).status_code == 200
    assert row_of(database, key).expires_at == row_of(database, key).created_at + timedelta(hours=1)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Basic c2s6c2s=",
        "Bearer sk_",
        "Bearer sk__",
        "Bearer sk_00000000_",
        "Bearer sk_00000000_" + "A" * 10_000,
        "Bearer sk_0000'--x_" + "A" * 43,
        "Bearer sk_0000000\xb2_" + "A" * 43,
        "Bearer sk_00000000_" + "é" * 43,
        "Bearer sk_00000000_" + "A" * 43 + ", Bearer x",
        "Negotiate " + "x" * 10_000,
    ],
)
def test_a_malformed_authorization_header_is_a_401(closed_api: httpx2.Client, value: str) -> None:
    answer = closed_api.get("/jobs", headers={b"Authorization": value.encode("latin-1")})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_header_with_a_nul_is_refused_before_it_is_read(closed_api: httpx2.Client) -> None:
    url = httpx2.URL(str(closed_api.base_url))
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(b"GET /jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a\0b\r\n\r\n")
        assert connection.recv(1000).startswith((b"HTTP/1.1 400", b"HTTP/1.1 401"))


def test_two_authorization_headers_are_a_401_even_when_one_is_good(
    closed_api: httpx2.Client, database: Database
) -> None:
    good = ("Authorization", f"Bearer {key_of(database, 'ours')}")
    for headers in ([good, ("Authorization", "Bearer x")], [good, good]):
        assert closed_api.get("/jobs", headers=headers).status_code == 401


def test_the_last_use_is_noted_once_a_minute(closed_api: httpx2.Client, database: Database) -> None:
    key = key_of(database, "ours")
    assert row_of(database, key).last_used_at is None
    closed_api.get("/jobs", headers=bearer(key))
    first = row_of(database, key).last_used_at
    closed_api.get("/jobs", headers=bearer(key))
    assert first is not None
    assert row_of(database, key).last_used_at == first
    change(database, key, last_used_at=first - timedelta(minutes=2))
    closed_api.get("/jobs", headers=bearer(key))
    assert row_of(database, key).last_used_at >= first


@contextmanager
def only_reading(database_url: str) -> Iterator[Database]:
    """As after a fail-over to a copy that takes no writes."""
    name = database_url.rpartition("/")[2]
    for_all = f"ALTER DATABASE {name} SET default_transaction_read_only"
    subprocess.run(["psql", "--quiet", "--command", f"{for_all} = on", "postgres"], check=True)
    database = Database(database_url)
    try:
        yield database
    finally:
        database.engine.dispose()
        subprocess.run(["psql", "--quiet", "--command", f"ALTER DATABASE {name} RESET ALL", "postgres"], check=True)


@pytest.mark.postgres
def test_a_database_that_only_reads_refuses_no_key(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    writable = Database(postgres_url)
    upgrade(writable)
    key = key_of(writable, "ours")
    with only_reading(postgres_url) as database, caplog.at_level(logging.WARNING):
        assert find_caller(database, key, PEPPER).prefix == prefix_of(key)
    assert "the use of a key was not noted" in caplog.text
    assert row_of(writable, key).last_used_at is None
    writable.engine.dispose()


def test_a_rotated_key_keeps_team_name_scopes_and_lifetime(database: Database) -> None:
    with database.write() as session:
        old = create_key(session, "ours", pepper=PEPPER, name="ci", scopes=["read"], lifetime=timedelta(days=9))
    with database.write() as session:
        new = rotate_key(session, prefix_of(old), pepper=PEPPER, grace=timedelta(hours=2))
    before, after = row_of(database, old), row_of(database, new)
    assert (after.team_id, after.name, after.scopes) == (before.team_id, "ci", ["read"])
    assert after.expires_at - after.created_at == timedelta(days=9)
    assert timedelta(hours=1, minutes=59) < before.expires_at - before.created_at < timedelta(hours=2, minutes=1)
    assert [find_caller(database, key, PEPPER).team for key in (old, new)] == [before.team_id] * 2


def test_rotating_never_prolongs_the_old_key(database: Database) -> None:
    with database.write() as session:
        old = create_key(session, "ours", pepper=PEPPER, lifetime=timedelta(minutes=5))
        rotate_key(session, old, pepper=PEPPER, grace=timedelta(days=1))
    assert row_of(database, old).expires_at == row_of(database, old).created_at + timedelta(minutes=5)


def test_a_revoked_key_can_be_neither_used_revoked_nor_rotated(database: Database) -> None:
    key = key_of(database, "ours")
    with database.write() as session:
        revoke_key(session, prefix_of(key))
    with pytest.raises(Unauthorized, match=prefix_of(key)):
        find_caller(database, key, PEPPER)
    with database.write() as session, pytest.raises(Conflict, match="revoked"):
        revoke_key(session, prefix_of(key))
    with database.write() as session, pytest.raises(Conflict, match="revoked"):
        rotate_key(session, prefix_of(key), pepper=PEPPER, grace=timedelta())


def test_an_unknown_prefix_is_named_but_a_pasted_secret_is_not_repeated(database: Database) -> None:
    with database.write() as session, pytest.raises(NotFound, match="'0badc0de'") as raised:
        revoke_key(session, "sk_0badc0de_secretsecret")
    assert "secretsecret" not in raised.value.detail


def test_the_list_of_keys_holds_no_secret_and_no_hash(database: Database) -> None:
    key = key_of(database, "ours")
    with database.read() as session:
        (row,) = list_keys(session)
    assert (row.prefix, row.team, row.scopes) == (prefix_of(key), "ours", ["read", "write"])
    assert row_of(database, key).secret_hash not in str(row)
    assert key.split("_", 2)[2] not in str(row)


def test_another_pepper_opens_nothing(database: Database) -> None:
    key = key_of(database, "ours")
    with pytest.raises(Unauthorized):
        find_caller(database, key, type(PEPPER)("another pepper of 32 characters!!"))


def test_a_missing_scope_says_what_the_key_has(database: Database) -> None:
    caller = find_caller(database, key_of(database, "ours", scopes=["read"]), PEPPER)
    caller.require("read")
    with pytest.raises(MissingScope, match="keys create --scope write"):
        caller.require("write")


@pytest.mark.parametrize("pepper", [None, "short"])
def test_an_api_with_keys_does_not_start_without_a_long_pepper(pepper: str | None, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, auth="keys", key_pepper=pepper)
    with pytest.raises(ConfigurationError, match="SYNTHCLONE_KEY_PEPPER, a random secret of 32 characters"):
        settings.required_pepper()
    given = {"SYNTHCLONE_KEY_PEPPER": pepper} if pepper else {}
    environment = {"SYNTHCLONE_AUTH": "keys", "SYNTHCLONE_DATA_DIR": str(tmp_path), "SYNTHCLONE_API_PORT": "0"}
    assert run("shared.migrate", environment) == 0
    assert run("services.prompt_api", environment | given) == 78


def run(module: str, variables: dict[str, str]) -> int:
    command = [sys.executable, "-m", module]
    return subprocess.run(command, cwd=PROJECT_ROOT, env=os.environ | variables, check=False, timeout=60).returncode


def test_settings_print_no_secret() -> None:
    settings = Settings(key_pepper="hunter2" * 5, s3_endpoint="s3", s3_access_key="a", s3_secret_key="hunter2")
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


# The service as it starts, with every logger at its most talkative.
TALKATIVE = (
    "import logging, shared.entry as entry, shared.logs as logs\n"
    "entry.configure_logs = lambda log_format: logs.configure_logs(log_format, level=logging.DEBUG)\n"
    "logging.getLogger('sqlalchemy').setLevel(logging.DEBUG)\n"
    "from services.prompt_api.__main__ import serve\n"
    "entry.run(serve)"
)


def test_no_log_line_holds_a_key_or_the_pepper(tmp_path: Path, lexicon_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    secrets = {"SYNTHCLONE_AUTH": "keys", "SYNTHCLONE_KEY_PEPPER": PEPPER.get_secret_value()}
    places = {"SYNTHCLONE_DATA_DIR": str(tmp_path), "SYNTHCLONE_API_PORT": port}
    variables = secrets | places | {"SYNTHCLONE_LEXICON_PATH": str(lexicon_path)}
    assert run("shared.migrate", variables) == 0
    key = key_of(Database(Settings(data_dir=tmp_path).sqlalchemy_url), "ours")
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    command = [sys.executable, "-c", TALKATIVE]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, env=os.environ | variables, stderr=subprocess.PIPE) as process:
        statuses = [ask(port, key, path) for path in ("/jobs", "/jobs/ds-1", "/jobs?limit=x")]
        statuses += [ask(port, wrong, "/jobs")]
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert statuses == [200, 404, 422, 401]
    assert b"FROM api_keys" in log
    assert not any(part in log.decode() for part in (key, key.split("_", 2)[2], wrong, PEPPER.get_secret_value()))


def ask(port: str, key: str, path: str) -> int:
    for _ in range(200):
        try:
            return httpx2.get(f"http://127.0.0.1:{port}{path}", headers=bearer(key)).status_code
        except httpx2.ConnectError:
            time.sleep(0.1)
    raise TimeoutError("the service did not start in 20 seconds")
