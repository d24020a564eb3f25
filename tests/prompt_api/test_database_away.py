"""The API while PostgreSQL is stopped, crashed or read-only: 503 for a while, never 500, never half a job."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, takewhile
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from services.prompt_api.app import create_app
from services.prompt_api.keys import create_key
from shared import lifecycle
from shared.database import Database
from shared.schema import create_default_team, upgrade
from shared.settings import PROJECT_ROOT, Settings
from shared.tables import DatasetClass, Event, Job
from tests.conftest import ServeApi, changed, empty
from tests.postgres_server import PostgresServer, find_programs, postgres_server
from tests.processes import wait_until
from tests.prompt_api.streams import add_running_job, sequence

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(find_programs() is None, reason="PostgreSQL's server programs are not installed"),
]
DIGITS = {"classes": "digits", "images_per_class": 2}
# What a load balancer or an operator asks even then.
OPERATORS = ("/livez", "/readyz", "/metrics")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as started:
        database = Database(started.url)
        upgrade(database)
        database.engine.dispose()
        yield started


@pytest.fixture
def own(server: PostgresServer) -> Iterator[Database]:
    """The server's database, empty but for the default team."""
    if not server.is_running:
        server.start()
    database = Database(server.url)
    empty(database)
    create_default_team(database)
    yield database
    database.engine.dispose()


@pytest.fixture
def settings(server: PostgresServer, tmp_path: Path, lexicon_path: Path) -> Settings:
    return Settings(database_url=server.url, data_dir=tmp_path, lexicon_path=lexicon_path)


@pytest.fixture
def client(serve_api: ServeApi, settings: Settings, own: Database) -> httpx2.Client:
    return serve_api(settings)


def every_request(settings: Settings) -> list[tuple[str, str]]:
    paths: dict[str, dict[str, object]] = create_app(settings).openapi()["paths"]
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods if path not in OPERATORS]
    return [(method, path.replace("{slot}", "0").replace("{shard_id}", "1")) for method, path in found]


def test_every_route_says_503_until_the_database_is_back(
    serve_api: ServeApi, settings: Settings, server: PostgresServer, own: Database, pepper: SecretStr
) -> None:
    client = serve_api(changed(settings, auth="keys", key_pepper=pepper))
    with own.write() as session:
        headers = {"Authorization": f"Bearer {create_key(session, 'ours', pepper=pepper)}"}
    assert client.get("/jobs", headers=headers).status_code == 200
    server.crash()
    started = time.monotonic()
    answers = [client.request(*asked, headers=headers, json={}) for asked in every_request(settings)]
    assert time.monotonic() - started < 30  # less than one wait for a connection pool
    assert {(answer.status_code, answer.headers.get("Retry-After")) for answer in answers} == {(503, "5")}
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    assert [client.get(path).status_code for path in OPERATORS] == [200, 503, 503]
    server.start()
    assert client.get("/jobs", headers=headers).status_code == 200


def post_until_accepted(client: httpx2.Client, key: str) -> str:
    """A client that sends the same request again for as long as it is told to."""
    while True:
        answer = client.post("/datasets", json=DIGITS, headers={"Idempotency-Key": key})
        if answer.status_code == 202:
            return str(answer.json()["id"])
        assert answer.status_code == 503, answer.text
        time.sleep(0.05)


def post_through_crashes(client: httpx2.Client, server: PostgresServer) -> list[str]:
    """The ids that four clients were given meanwhile, each for a key of its own."""
    over = threading.Event()

    def post_all_the_time(name: int) -> list[str]:
        numbers = takewhile(lambda _: not over.is_set(), count())
        return [post_until_accepted(client, f"key-{name}-{number}") for number in numbers]

    with ThreadPoolExecutor(4) as pool:
        posting = pool.map(post_all_the_time, range(4))
        for _ in range(4):
            time.sleep(0.4)
            server.restart()
        over.set()
        return [job for accepted in posting for job in accepted]


def count_by_job(session: Session, column: InstrumentedAttribute[str]) -> dict[str, int]:
    return {row[0]: row[1] for row in session.execute(select(column, func.count()).group_by(column))}


def test_requests_repeated_through_crashes_make_each_job_once_and_whole(
    client: httpx2.Client, server: PostgresServer, own: Database
) -> None:
    accepted = post_through_crashes(client, server)
    with own.read() as session:
        jobs = set(session.scalars(select(Job.id)))
        classes = count_by_job(session, DatasetClass.job_id)
        events = count_by_job(session, Event.job_id)
    assert sorted(jobs) == sorted(accepted)
    assert classes == dict.fromkeys(jobs, 10)
    assert events == dict.fromkeys(jobs, 1)


def set_read_only(database: Database, value: str) -> None:
    """As after a fail-over; every connection there was is gone."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"ALTER SYSTEM SET default_transaction_read_only = {value}"))
        connection.execute(text("SELECT pg_reload_conf()"))
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        connection.execute(text(f"{others} AND backend_type = 'client backend'"))
    time.sleep(0.6)  # a connection that was used half a second ago is not tried before it is used again


def test_a_read_only_database_is_read_and_says_503_to_writes(client: httpx2.Client, own: Database) -> None:
    assert client.post("/datasets", json=DIGITS).status_code == 202
    set_read_only(own, "on")
    try:
        answers = [client.post("/datasets", json=DIGITS), client.get("/jobs")]
    finally:
        set_read_only(own, "off")
    assert [(answer.status_code, answer.headers.get("Retry-After")) for answer in answers] == [(503, "5"), (200, None)]
    assert client.post("/datasets", json=DIGITS).status_code == 202


def cut_off_waiting(database: Database) -> bool | None:
    """End the connection that waits for a lock; None while there is none."""
    waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with database.read() as session:
        return True if session.scalar(text(waiting)) else None


def test_a_request_cut_off_in_mid_transaction_is_503_and_leaves_nothing(client: httpx2.Client, own: Database) -> None:
    with own.engine.begin() as holder, ThreadPoolExecutor(1) as pool:
        holder.execute(text("LOCK TABLE dataset_classes"))
        answer: Future[httpx2.Response] = pool.submit(client.post, "/datasets", json=DIGITS)
        wait_until(lambda: cut_off_waiting(own), seconds=10, what="a request that waits")
        assert answer.result().status_code == 503
    with own.read() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_an_open_stream_waits_for_the_database_and_goes_on(
    client: httpx2.Client, server: PostgresServer, own: Database
) -> None:
    job = add_running_job(own)
    with client.stream("GET", f"/jobs/{job}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: state"
        server.crash()
        time.sleep(1.5)  # a few rounds that find nothing
        server.start()
        own.engine.dispose()
        with own.write() as session:
            assert lifecycle.transition(session, job, "succeeded")
        ids = [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]
    assert ids == sequence(own, job)


def test_a_start_without_a_database_is_said_and_exits_69(server: PostgresServer, tmp_path: Path) -> None:
    server.stop()
    environment = {"SYNTHCLONE_DATABASE_URL": server.url, "SYNTHCLONE_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "services.prompt_api"]
    done = subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=environment | {"SYNTHCLONE_API_PORT": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, "the database does not answer" in done.stderr) == (69, True)
    assert "Traceback" not in done.stderr
