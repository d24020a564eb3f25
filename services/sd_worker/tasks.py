"""Celery's entry: `celery -A services.sd_worker.tasks worker -Q generate`. The parent never imports torch."""

from shared.settings import Settings
from shared.tasks import CeleryWorker, Consumer


def make_consumer(settings: Settings) -> Consumer:
    from .worker import ShardWorker  # loads torch: only in the pool child

    return ShardWorker(settings)


app = CeleryWorker("generate", __name__, make_consumer).app
