"""Addresses on this machine that no other test process takes: each of xdist's workers has its own."""

import os
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle

# "gw0", "gw1" and so on in xdist's workers, not set elsewhere.
XDIST_WORKER = "PYTEST_XDIST_WORKER"
# Below those that Linux gives to outgoing connections, one of which could take a port just found to be free.
FIRST_PORT, PORTS = 20_000, 1000
FIRST_REDIS_DATABASE = 9


def worker_number() -> int:
    return int(os.environ.get(XDIST_WORKER, "gw0").removeprefix("gw"))


def free_port() -> int:
    """None is given twice by a process, as the first may not have been taken yet."""
    return next(port for port in ports(os.getpid()) if is_free(port))


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@cache
def ports(process_id: int) -> Iterator[int]:
    """Beginning elsewhere in each process, so that two that share a range, by chance or by fork, do not meet."""
    first, offset = FIRST_PORT + PORTS * worker_number(), 101 * process_id % PORTS
    return cycle([*range(first + offset, first + PORTS), *range(first, first + offset)])


def redis_url() -> str:
    """Of the server of this machine; whoever uses it empties it."""
    return f"redis://127.0.0.1:6379/{FIRST_REDIS_DATABASE + worker_number()}"
