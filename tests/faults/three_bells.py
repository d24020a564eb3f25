"""The real dispatcher, except that it rings each doorbell three times: `python -m tests.faults.three_bells`."""

import logging

from celery import Celery

from services.dispatcher import __main__ as dispatcher
from shared.entry import run
from shared.queue import Kind, ring

RUNG = "rung three times"
logger = logging.getLogger(__name__)


def ring_three_times(app: Celery, kind: Kind) -> None:
    for _ in range(3):
        ring(app, kind)
    logger.warning(RUNG)


if __name__ == "__main__":
    setattr(dispatcher, "ring", ring_three_times)  # noqa: B010 - mypy allows no assignment to what it imported
    run(dispatcher.main)
