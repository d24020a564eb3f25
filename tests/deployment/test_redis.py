"""Redis with the product's own users: a real Celery worker is woken through it, and nobody can do more."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import ConnectionError as Away
from redis.exceptions import NoPermissionError, RedisError

from shared.queue import KINDS, broker_answers, celery_app, ring
from shared.settings import PROJECT_ROOT, Settings
from tests.addresses import free_port
from tests.processes import Processes, wait_until

pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
SCRIPT = PROJECT_ROOT / "deploy/redis.sh"
USERS = ("dispatcher", "worker", "trainer", "evaluator")
PASSWORDS = {f"{user.upper()}_REDIS_PASSWORD": f"{user}word" for user in USERS}
OBSERVER = "\nuser observer on nopass ~* &* +@all\nEND\n"


class Broker:
    """The server, started as the compose file does, with one more user to watch what it refuses."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.port, self._folder, self._processes = free_port(), folder, processes
        self._script = folder / "redis.sh"
        self._script.write_text(SCRIPT.read_text().replace("\nEND\n", OBSERVER))

    def start(self) -> subprocess.Popen[bytes]:
        command = ["sh", str(self._script), "--port", str(self.port), "--dir", str(self._folder)]
        server = self._processes.start(command, "redis", PASSWORDS)
        wait_until(self.pings, seconds=10, what="PING")
        return server

    def pings(self) -> bool | None:
        with suppress(Away), self.client("health") as client:
            return bool(client.ping())
        return None

    def url(self, user: str) -> str:
        return f"redis://{user}:{user}word@127.0.0.1:{self.port}/0"

    def client(self, user: str) -> Redis:
        return Redis.from_url(self.url(user))

    def refusals(self) -> list[str]:
        with self.client("observer") as client:
            return [f"{entry['username']} {entry['object']}" for entry in client.acl_log()]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path, {}) as processes:
        yield processes


@pytest.fixture
def broker(tmp_path: Path, processes: Processes) -> Broker:
    return Broker(tmp_path, processes)


def woken(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_dispatcher_wakes_a_worker_also_after_a_restart_and_nothing_they_need_is_refused(
    tmp_path: Path, broker: Broker, processes: Processes
) -> None:
    server, bell = broker.start(), tmp_path / "bell"
    environment = {"SYNTHCLONE_REDIS_URL": broker.url("worker"), "BELL_FILE": str(bell)}
    processes.celery("tests.deployment.bell_worker", "generate", **environment)
    app = celery_app(Settings(redis_url=broker.url("dispatcher")))
    ring(app, "generate")
    wait_until(lambda: woken(bell) == 1 or None, seconds=60, what="the first call")
    assert broker.refusals() == []
    server.terminate()
    server.wait(10)
    broker.start()
    wait_until(lambda: ringing(app, bell, calls=2) or None, seconds=60, what="the second call")
    time.sleep(2.5)  # heartbeats go out every two seconds
    assert broker.refusals() == []


def ringing(app: Celery, bell: Path, *, calls: int) -> bool:
    ring(app, "generate")
    time.sleep(0.5)
    return woken(bell) >= calls


def test_the_dispatcher_may_ring_every_bell(broker: Broker) -> None:
    broker.start()
    app = celery_app(Settings(redis_url=broker.url("dispatcher")))
    for kind in KINDS:
        ring(app, kind)
    with broker.client("observer") as client:
        assert [client.llen(kind) for kind in KINDS] == [1, 1, 1]
    assert all(broker_answers(broker.url(user)) for user in USERS)


def test_what_a_user_has_no_need_for_is_refused(broker: Broker) -> None:
    broker.start()
    everybody = ("FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "SHUTDOWN", "ACL LIST", "MONITOR")
    commands = [(user, command) for user in (*USERS, "health") for command in everybody]
    commands += [("dispatcher", "RPOP generate"), ("dispatcher", "DEL generate"), ("dispatcher", "LPUSH other 1")]
    commands += [("worker", "RPOP train"), ("trainer", "LPUSH evaluate 1"), ("evaluator", "DEL generate")]
    commands += [("worker", "EVAL return 0"), ("worker", "PUBLISH other 1"), ("health", "GET generate")]
    assert [f"{user} {command}" for user, command in commands if not is_refused(broker, user, command)] == []


def is_refused(broker: Broker, user: str, command: str) -> bool:
    with broker.client(user) as client:
        try:
            client.execute_command(*command.split())
        except NoPermissionError:
            return True
    return False


def test_nobody_gets_in_without_a_login(broker: Broker) -> None:
    broker.start()
    with Redis(port=broker.port) as client, pytest.raises(RedisError, match="authenticated"):
        client.get("generate")
    assert not broker_answers(f"redis://worker:wrong@127.0.0.1:{broker.port}/0")
