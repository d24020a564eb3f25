"""Running the service: health, metrics, keys, start and stop."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr

from services.prompt_api.keys import create_key
from shared.database import Database, database_now
from shared.settings import Settings
from shared.tables import ApiKey
from tests.conftest import ServeApi, changed

ROOT = Path(__file__).parents[2]
DIGITS = {"classes": "digits", "images_per_class": 2}


def test_liveness_asks_nothing_of_the_database(serve_api: ServeApi, api_settings: Settings) -> None:
    client = serve_api(changed(api_settings, database_url="postgresql://127.0.0.1:1/none"))
    assert client.get("/livez").json() == {"status": "alive"}


def test_readiness_names_the_part_that_is_away(serve_api: ServeApi, api_settings: Settings) -> None:
    client = serve_api(changed(api_settings, database_url="postgresql://127.0.0.1:1/none"))
    answer = client.get("/readyz")
    checks = answer.json()["checks"]
    assert (answer.status_code, checks["database"]["ok"], checks["lexicon"]["ok"]) == (503, False, True)
    assert "Connection refused" in checks["database"]["problem"]


def test_a_database_that_is_away_is_a_503_and_not_a_crash(serve_api: ServeApi, api_settings: Settings) -> None:
    client = serve_api(changed(api_settings, database_url="postgresql://127.0.0.1:1/none"))
    answers = [client.get("/jobs"), client.post("/datasets", json=DIGITS), client.get("/metrics")]
    assert {(answer.status_code, answer.headers["content-type"]) for answer in answers} == {
        (503, "application/problem+json")
    }
    assert answers[0].headers["Retry-After"] == "5"


def test_a_missing_lexicon_is_told_with_its_remedy(serve_api: ServeApi, api_settings: Settings, api: object) -> None:
    client = serve_api(changed(api_settings, lexicon_path=Path("/nowhere/lexicon.json")))
    answer = client.post("/datasets", json=DIGITS)
    assert (answer.status_code, "synthclone lexicon build" in answer.json()["detail"]) == (503, True)
    assert client.get("/readyz").json()["checks"]["lexicon"]["ok"] is False


def test_readiness_is_200_when_everything_answers(api: httpx2.Client, api_settings: Settings) -> None:
    api_settings.objects_dir.mkdir(exist_ok=True)
    answer = api.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")


def test_the_metrics_count_jobs_by_state(api: httpx2.Client) -> None:
    api.post("/datasets", json=DIGITS)
    text = api.get("/metrics").text
    assert 'synthclone_jobs{kind="dataset",state="queued"} 1.0' in text
    assert 'synthclone_shards{state="pending"} 0.0' in text


def with_key(client: httpx2.Client, key: str) -> httpx2.Response:
    return client.get("/jobs", headers={"Authorization": f"Bearer {key}".encode("latin-1")})


def test_a_team_sees_only_its_own_jobs(
    serve_api: ServeApi, api_settings: Settings, database: Database, pepper: SecretStr
) -> None:
    client = serve_api(changed(api_settings, auth="keys", key_pepper=pepper))
    with database.write() as session:
        ours, theirs = (create_key(session, team, pepper=pepper) for team in ("ours", "theirs"))
    made = client.post("/datasets", json=DIGITS, headers={"Authorization": f"Bearer {ours}"}).json()["id"]
    assert [job["id"] for job in with_key(client, ours).json()["items"]] == [made]
    assert with_key(client, theirs).json()["items"] == []
    for path in (f"/jobs/{made}", f"/jobs/{made}/events", f"/datasets/{made}", f"/datasets/{made}/shards"):
        assert client.get(path, headers={"Authorization": f"Bearer {theirs}"}).status_code == 404


def test_without_a_live_key_every_answer_is_401(
    serve_api: ServeApi, api_settings: Settings, database: Database, pepper: SecretStr
) -> None:
    client = serve_api(changed(api_settings, auth="keys", key_pepper=pepper))
    with database.write() as session:
        key = create_key(session, "ours", pepper=pepper)
        revoked = create_key(session, "ours", pepper=pepper)
        session.flush()
        row = session.query(ApiKey).filter_by(prefix=revoked.split("_")[1]).one()
        row.revoked_at = database_now(session)
    assert with_key(client, key).status_code == 200
    for bad in ("x", "sk_", key[:-1], key[:-1] + "é", key.replace(key[3:11], "00000000"), revoked):
        answer = with_key(client, bad)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert client.get("/jobs").status_code == 401
    assert client.get("/livez").status_code == 200


def test_only_a_hash_of_the_key_is_stored(database: Database, pepper: SecretStr) -> None:
    with database.write() as session:
        key = create_key(session, "ours", pepper=pepper)
    with database.read() as session:
        row = session.query(ApiKey).one()
    assert key == f"sk_{row.prefix}_{key.split('_', 2)[2]}"
    assert key.split("_", 2)[2] not in row.secret_hash


def run_service(folder: Path, **variables: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"SYNTHCLONE_DATA_DIR": str(folder)} | variables
    command = [sys.executable, "-m", "services.prompt_api"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_port_in_use_is_said_and_exits_78(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = run_service(tmp_path, SYNTHCLONE_API_PORT=port)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 78
    assert f"port {port}" in errors
    assert "SYNTHCLONE_API_PORT" in errors


def test_a_database_that_was_never_migrated_is_said_and_exits_78(tmp_path: Path) -> None:
    process = run_service(tmp_path, SYNTHCLONE_API_PORT="0")
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, "synthclone migrate" in errors) == (78, True)


def test_sigterm_ends_an_open_event_stream_and_the_process_within_seconds(tmp_path: Path, lexicon_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "shared.migrate"],
        cwd=ROOT,
        env=os.environ | {"SYNTHCLONE_DATA_DIR": str(tmp_path)},
        check=True,
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = run_service(tmp_path, SYNTHCLONE_API_PORT=str(port), SYNTHCLONE_LEXICON_PATH=str(lexicon_path))
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        wait_until_ready(client)
        job_id = client.post("/datasets", json=DIGITS).json()["id"]
        with client.stream("GET", f"/jobs/{job_id}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "event: state"
            threading.Timer(0.2, process.send_signal, [signal.SIGTERM]).start()
            started = time.monotonic()
            list(lines)
    assert process.wait(timeout=10) in (0, -signal.SIGTERM)
    assert time.monotonic() - started < 4
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def wait_until_ready(client: httpx2.Client) -> None:
    for _ in range(100):
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx2.ConnectError:
            pass
        time.sleep(0.1)
    pytest.fail("the service did not become ready in ten seconds")


def test_the_service_loads_no_torch() -> None:
    code = "import sys, services.prompt_api.app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
