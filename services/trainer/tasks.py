"""The trainer woken by Celery: `celery -A services.trainer.tasks worker -Q train`."""

from shared.tasks import CeleryWorker

from .consumer import make_consumer

app = CeleryWorker("train", __name__, make_consumer).app
