"""Run every service on this machine until told to stop."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import httpx2

from shared.errors import Unavailable
from shared.gpus import driver_files
from shared.settings import Settings

from .folder import prepare
from .roster import count_usable_gpus, make_roster
from .supervisor import Supervisor

READY_SECONDS = 90.0
TEND_SECONDS = 0.5


def up(settings: Settings, stop: threading.Event, *, announce: Callable[[str], None]) -> None:
    """`announce` is given the API's address once it answers; returns after `stop` with no child left."""
    with services(settings, log=None) as supervisor:
        if not await_ready(address(settings), supervisor, stop):
            return
        announce(address(settings))
        while not stop.wait(TEND_SECONDS):
            supervisor.tend()


@contextmanager
def services(settings: Settings, *, log: IO[bytes] | None) -> Iterator[Supervisor]:
    """The services run inside; what they log goes to `log`, or to this process's own stderr."""
    prepare(settings)
    variables = environment(settings)
    roster = make_roster(settings, variables, gpus=count_usable_gpus(settings, variables, files=driver_files()))
    with Supervisor(roster, log=log) as supervisor:
        yield supervisor


def address(settings: Settings) -> str:
    host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    return f"http://{host}:{settings.api_port}"


def environment(settings: Settings) -> dict[str, str]:
    """What the children inherit: this process's variables, with what the command line changed."""
    return os.environ | {
        "SYNTHCLONE_DATA_DIR": str(settings.data_dir.resolve()),
        "SYNTHCLONE_API_PORT": str(settings.api_port),
        # Several processes with torch share the cores; idle OpenMP threads must not spin on them.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def await_ready(url: str, supervisor: Supervisor, stop: threading.Event) -> bool:
    """False when told to stop before that; raises Unavailable when it takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    while not stop.wait(TEND_SECONDS):
        supervisor.tend()
        problem = not_ready(url)
        if problem is None:
            return True
        if time.monotonic() > deadline:
            raise Unavailable(f"the API did not become ready in {READY_SECONDS:.0f} s: {problem}")
    return False


def not_ready(url: str) -> str | None:
    try:
        response = httpx2.get(f"{url}/readyz", timeout=5)
    except httpx2.TransportError as error:
        return f"{type(error).__name__}: {error}"
    return None if response.is_success else response.text[:500]
