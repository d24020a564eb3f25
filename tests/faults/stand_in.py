"""The real generating worker with a generator that needs no weights: `celery -A tests.faults.stand_in worker`."""

from shared.settings import Settings
from shared.tasks import CeleryWorker, Consumer, run_polling


def make_consumer(settings: Settings) -> Consumer:
    # They load torch: only in the pool child.
    from services.sd_worker.worker import ShardWorker

    from .noise import Noise

    return ShardWorker(settings, make_generator=Noise)


if __name__ == "__main__":
    run_polling(make_consumer)
else:
    app = CeleryWorker("generate", __name__, make_consumer).app
