"""The product's own processes, started as an operator would and stopped with the test."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from shared.settings import PROJECT_ROOT

Value = TypeVar("Value")


class Processes:
    """Starts commands in process groups of their own; logs go to `folder`, everything is killed at the end."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SYNTHCLONE_")},
            "OMP_WAIT_POLICY": "PASSIVE",
            **environment,
        }
        self._running: list[subprocess.Popen[bytes]] = []

    def module(self, name: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.start([sys.executable, "-m", name], name, environment)

    def celery(self, target: str, queue: str, **environment: str) -> subprocess.Popen[bytes]:
        options = ["-Q", queue, "--without-gossip", "--without-mingle", "-n", f"{queue}-{len(self._running)}@test"]
        command = [sys.executable, "-m", "celery", "-A", target, "worker", *options]
        return self.start(command, target, environment)

    def start(self, command: list[str], name: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}-{len(self._running)}.log").open("wb")
        process = subprocess.Popen(
            command,
            cwd=PROJECT_ROOT,
            env=self.environment | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self._running.append(process)
        return process

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            kill(process)
        if error is not None:
            error.add_note(self.logs())


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of the process and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def wait_until(ask: Callable[[], Value | None], *, seconds: float, what: str) -> Value:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (value := ask()) is not None:
            return value
        time.sleep(0.1)
    raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
