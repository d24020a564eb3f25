"""The evaluator woken by Celery: `celery -A services.evaluator.tasks worker -Q evaluate`."""

from shared.settings import Settings
from shared.tasks import CeleryWorker, Consumer


def make_consumer(settings: Settings) -> Consumer:
    # Imported in the pool's child alone: the parent must not load torch.
    from .consumer import make_consumer as make

    return make(settings)


app = CeleryWorker("evaluate", __name__, make_consumer).app
