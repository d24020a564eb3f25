"""Celery's entry: `celery -A services.sd_worker.tasks worker -Q generate`. The parent never imports torch."""

from shared.settings import Settings
from shared.tasks import CeleryWorker, Consumer

from .pinning import pinned


def make_consumer(settings: Settings) -> Consumer:
    own = pinned(settings)
    from .worker import ShardWorker  # loads torch: only in the pool child

    return ShardWorker(own)


app = CeleryWorker("generate", __name__, make_consumer).app
