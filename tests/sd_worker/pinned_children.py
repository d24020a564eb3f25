"""`celery -A tests.sd_worker.pinned_children worker --concurrency N`: each child writes down which GPU it sees."""

import os
import sys
import threading
from pathlib import Path

from sqlalchemy.exc import OperationalError

from services.sd_worker.pinning import pinned
from shared.settings import Settings
from shared.tasks import CeleryWorker


class Watchdog:
    def start(self, end: object) -> None:
        """Nothing to watch."""


class Child:
    times_made = 0

    def __init__(self, settings: Settings) -> None:
        self.watchdog = Watchdog()
        own = pinned(settings)
        Child.times_made += 1
        if Child.times_made == 1:
            raise OperationalError("connect", None, ConnectionRefusedError("the database is away"))
        seen = (os.environ["CUDA_VISIBLE_DEVICES"], own.worker_health_port, "torch" in sys.modules)
        with Path(os.environ["CHILDREN_FILE"]).open("a") as file:
            file.write(f"{os.getpid()} {' '.join(map(str, seen))}\n")

    def work(self, stop: threading.Event) -> bool:
        return False

    def close(self) -> None:
        """Nothing is held."""


worker = CeleryWorker("generate", __name__, Child)  # type: ignore[arg-type]
app = worker.app
