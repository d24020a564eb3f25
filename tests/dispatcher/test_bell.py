"""The leader's first ring must not wait for imports."""

import subprocess
import sys

from tests.addresses import free_port

# Nothing listens there: that changes only how the ring ends.
FIRST_RING = """
import sys
from contextlib import suppress
from kombu.exceptions import OperationalError
from services.dispatcher.__main__ import ready_bell
from shared.settings import Settings

ring = ready_bell(Settings(redis_url=sys.argv[1]))
before = set(sys.modules)
with suppress(OperationalError):
    ring("generate")
for name in sorted(set(sys.modules) - before):
    if name.partition(".")[0] in ("celery", "kombu", "redis", "billiard"):
        print(name)
"""


def test_the_first_ring_imports_nothing_of_celery_or_redis() -> None:
    command = [sys.executable, "-c", FIRST_RING, f"redis://127.0.0.1:{free_port()}/0"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.split() == []
