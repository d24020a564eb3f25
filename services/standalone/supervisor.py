"""Starts the services as child processes, starts those that die again, and leaves none behind."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, NamedTuple, Self

from shared.errors import ConfigurationError

logger = logging.getLogger(__name__)

STOP_SECONDS = 9.0
LONGEST_PAUSE_SECONDS = 30.0
HEALTHY_SECONDS = 60.0


class Service(NamedTuple):
    """A module to run, and the variables it gets."""

    module: str
    environment: Mapping[str, str]


class Child:
    """One service: its process now, and how often in a row it died young."""

    def __init__(self, service: Service, log: IO[bytes] | None) -> None:
        self.module, self._environment = service
        self._log = log
        self._deaths = 0
        self._again_at: float | None = None
        self._start()

    def _start(self) -> None:
        # A session of its own: ctrl-C in the terminal reaches only the supervisor, which then stops all in order.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.standalone.child", self.module],
            stdin=subprocess.PIPE,
            # The parent's stdout is for its own data.
            stdout=self._log or sys.stderr,
            stderr=self._log,
            env=self._environment,
            start_new_session=True,
        )
        self._started_at = time.monotonic()
        self._again_at = None

    def tend(self) -> None:
        """Start the process again if it died; raises ConfigurationError when that cannot help."""
        code = self.process.poll()
        if code is None:
            return
        if code == ConfigurationError.exit_code:
            raise ConfigurationError(f"{self.module} cannot run with these settings; its last message says why")
        if self._again_at is None:
            self._again_at = time.monotonic() + self._pause(code)
        elif time.monotonic() >= self._again_at:
            self._start()

    def _pause(self, code: int) -> float:
        lived = time.monotonic() - self._started_at
        self._deaths = 1 if lived > HEALTHY_SECONDS else self._deaths + 1
        seconds = min(2.0 ** (self._deaths - 1), LONGEST_PAUSE_SECONDS)
        logger.warning("service died", extra={"service": self.module, "exit_code": code, "again_in_seconds": seconds})
        return seconds

    def terminate(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self, *, seconds: float) -> None:
        """Wait for the process, then kill whatever is left of its group, such as a trainer's own child."""
        try:
            self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            logger.warning("service killed: it did not stop in time", extra={"service": self.module})
        kill_group(self.process.pid)
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


def kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


class Supervisor:
    """A context manager: inside it the services run, after it none does."""

    def __init__(self, services: Sequence[Service], *, log: IO[bytes] | None) -> None:
        self._services, self._log = services, log
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        self._children = [Child(service, self._log) for service in self._services]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children:
            child.terminate()
        for child in self._children:
            child.end(seconds=deadline - time.monotonic())

    def tend(self) -> None:
        for child in self._children:
            child.tend()
