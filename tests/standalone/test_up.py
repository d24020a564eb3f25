"""`synthclone up` as one command on an empty folder, and what it says where it cannot run."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from client import Client
from services.standalone.folder import build_missing_lexicon
from shared.settings import PROJECT_ROOT, Settings
from tests.addresses import free_port
from tests.processes import Processes, wait_until

CURL = '{"classes":"digits","prompt":"description","scale":2,"images_per_class":32}'
UP = [sys.executable, "-m", "client.main", "up"]
WORDNET = PROJECT_ROOT / "data/wordnet"


def up(data: Path, *, port: int | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """A run that is expected to end by itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SYNTHCLONE_")}
    command = [*UP, "--data", str(data), "--port", str(port or free_port())]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=kept | variables)


def test_port_in_use_exits_with_78_and_names_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = up(tmp_path, port=port)
    assert done.returncode == 78
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr


def test_data_folder_that_is_a_file_exits_with_78(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.touch()
    done = up(place)
    assert done.returncode == 78
    assert str(place) in done.stderr
    assert "--data" in done.stderr


def test_data_folder_that_cannot_be_written_to_exits_with_78() -> None:
    done = up(Path("/proc/synthclone"))
    assert done.returncode == 78
    assert "/proc/synthclone" in done.stderr


def test_full_disk_exits_with_78_and_says_so(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        done = up(tmp_path / "data")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert done.returncode == 78
    assert "free some space" in done.stderr


def test_newer_database_exits_with_78_and_stays_untouched(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "synthclone.db")) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        database.execute("INSERT INTO alembic_version VALUES ('9999_from_the_future')")
        database.commit()
        done = up(tmp_path)
        tables = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
    assert done.returncode == 78
    assert "newer synthclone" in done.stderr
    assert tables == (1,)


def test_file_that_is_no_database_exits_with_78(tmp_path: Path) -> None:
    (tmp_path / "synthclone.db").write_bytes(b"not a database, but long enough to be read as one" * 50)
    done = up(tmp_path)
    assert done.returncode == 78
    assert "synthclone.db" in done.stderr


def test_settings_of_a_cluster_are_refused(tmp_path: Path) -> None:
    done = up(tmp_path, SYNTHCLONE_REDIS_URL="redis://127.0.0.1:1")
    assert done.returncode == 78
    assert "SYNTHCLONE_REDIS_URL" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not WORDNET.is_dir(), reason="WordNet is not in the data folder")
def test_missing_lexicon_is_built_as_the_command_builds_it(tmp_path: Path, lexicon_path: Path) -> None:
    shutil.copytree(WORDNET, tmp_path / "wordnet")
    build_missing_lexicon(Settings(data_dir=tmp_path, lexicon_path=tmp_path / "lexicon.json"))
    command = [sys.executable, "-m", "client.main", "lexicon", "build", "--output", str(tmp_path / "other.json")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "lexicon.json").read_bytes() == lexicon_path.read_bytes()
    assert (tmp_path / "other.json").read_bytes() == lexicon_path.read_bytes()


class Running:
    """A running `synthclone up`."""

    def __init__(self, processes: Processes, data: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = processes.folder / "up-0.log"
        self.process = processes.start([*UP, "--data", str(data), "--port", str(port)], "up", {})
        wait_until(self.ready, seconds=90, what="readiness")

    def ready(self) -> bool | None:
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/readyz").is_success or None
        return None

    def children(self) -> dict[str, int]:
        """Process ids by service."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in listed}
        return {command.split(b"\0")[-2].decode(): pid for pid, command in commands.items()}


@pytest.fixture
def running(tmp_path: Path, lexicon_path: Path) -> Iterator[Running]:
    (tmp_path / "logs").mkdir()
    with Processes(tmp_path / "logs", {"SYNTHCLONE_LEXICON_PATH": str(lexicon_path)}) as processes:
        yield Running(processes, tmp_path / "data")


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def all_gone(pids: list[int]) -> bool | None:
    return None if any(is_alive(pid) for pid in pids) else True


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stopping_ends_every_service_within_ten_seconds(running: Running, how: signal.Signals) -> None:
    services = running.children()
    assert set(services) == {
        f"services.{name}" for name in ("prompt_api", "dispatcher", "sd_worker", "trainer", "evaluator")
    }
    running.process.send_signal(how)
    assert running.process.wait(12) == 0
    assert all_gone(list(services.values()))
    assert "did not stop in time" not in running.log.read_text()


@pytest.mark.slow
def test_no_service_outlives_a_killed_supervisor(running: Running) -> None:
    services = running.children()
    running.process.kill()
    wait_until(lambda: all_gone(list(services.values())), seconds=20, what="the end of every service")


@pytest.mark.slow
def test_service_that_dies_is_started_again(running: Running) -> None:
    first = running.children()["services.prompt_api"]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: None if is_alive(first) else True, seconds=5, what="death")
    wait_until(running.ready, seconds=60, what="the API's return")
    assert running.children()["services.prompt_api"] != first


@pytest.mark.slow
def test_the_users_curl_draws_every_image(running: Running) -> None:
    command = ["curl", "-s", "-w", "%{http_code}", "-XPOST", f"{running.url}/datasets"]
    command += ["-H", "content-type: application/json", "-d", CURL]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert answer.endswith("202")
    with Client(running.url) as client:
        job = client.jobs.wait(json.loads(answer.removesuffix("202"))["id"], timeout_seconds=240)
        assert (job.state, job.counts.done, job.counts.total) == ("succeeded", 320, 320)
        assert client.datasets.image(job.id, "n13742358", 31).startswith(b"\xff\xd8")
