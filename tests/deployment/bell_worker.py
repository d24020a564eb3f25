"""`celery -A tests.deployment.bell_worker worker`: a real worker whose work is to write a line to a file."""

import os
import threading
from pathlib import Path

from shared.settings import Settings
from shared.tasks import CeleryWorker


class Watchdog:
    def start(self, end: object) -> None:
        """Nothing to watch."""


class LineWriter:
    def __init__(self, settings: Settings) -> None:
        self.watchdog = Watchdog()

    def work(self, stop: threading.Event) -> bool:
        with Path(os.environ["BELL_FILE"]).open("a") as file:
            file.write("woken\n")
        return False

    def close(self) -> None:
        """Nothing is held."""


worker = CeleryWorker("generate", __name__, LineWriter)  # type: ignore[arg-type]
app = worker.app
