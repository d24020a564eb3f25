"""A polling worker that hangs before it claims: `python -m tests.sd_worker.stuck`."""

import threading

from services.sd_worker.worker import ShardWorker
from shared.tasks import run_polling


class Stuck(ShardWorker):
    def work(self, stop: threading.Event) -> bool:
        return not threading.Event().wait()


if __name__ == "__main__":
    run_polling(Stuck)
