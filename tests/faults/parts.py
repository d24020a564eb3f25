"""Processes as an orchestrator runs them: started again when they die, unless somebody wants them down."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import redis

from shared.settings import PROJECT_ROOT
from tests.processes import kill, wait_until

WATCH_SECONDS = 0.2


class Part:
    """One process group and its log."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.command = command
        self.environment = dict(environment)
        self.log = folder / f"{name}.log"
        self.is_wanted = True
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=PROJECT_ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def signal(self, number: signal.Signals) -> None:
        """To the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """kill -9 of the group; the orchestrator starts it again."""
        kill(self.process)

    def terminate(self, *, seconds: float = 60) -> int:
        """SIGTERM as an orchestrator sends it: to the first process only. Returns its exit code."""
        self.process.terminate()
        return self.process.wait(seconds)

    def restart(self, **environment: str) -> None:
        """Down and up again, with these variables changed; an empty value removes one."""
        self.is_wanted = False
        self.kill()
        self.environment |= environment
        self.environment = {name: value for name, value in self.environment.items() if value}
        self.start()
        self.is_wanted = True

    def tend(self) -> None:
        if self.is_wanted and self.process.poll() is not None:
            self.start()

    def end(self) -> None:
        self.is_wanted = False
        self.signal(signal.SIGCONT)
        self.kill()


class Orchestrator:
    """Keeps parts running from a thread."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SYNTHCLONE_")},
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self.parts: dict[str, Part] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def module(self, name: str, module: str) -> Part:
        return self._add(name, [sys.executable, "-m", module])

    def celery(self, name: str, target: str, queue: str) -> Part:
        options = ["-Q", queue, "--without-gossip", "--without-mingle", "-n", f"{name}@faults"]
        return self._add(name, [sys.executable, "-m", "celery", "-A", target, "worker", *options])

    def remove(self, name: str) -> None:
        self.parts.pop(name).end()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for part in self.parts.values():
            part.end()

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def _add(self, name: str, command: list[str]) -> Part:
        self.parts[name] = Part(name, command, self.environment, self.folder)
        return self.parts[name]

    def _run(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            for part in list(self.parts.values()):
                part.tend()


class RedisServer:
    """Without persistence: a crash empties it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.start()

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        wait_until(self._answers, seconds=10, what="Redis")

    def crash(self) -> None:
        self._process.kill()
        self._process.wait(10)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def flush(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool | None:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return None


@contextmanager
def redis_server(port: int) -> Iterator[RedisServer]:
    server = RedisServer(port)
    try:
        yield server
    finally:
        server.crash()


def children(pid: int) -> list[int]:
    """The processes that this one started."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listing.read_text().split()]
