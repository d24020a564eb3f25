"""`python -m services.dispatcher`: ticks until told to stop; waits out a database or broker that is away."""

import logging
from functools import partial

from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import SQLAlchemyError

from shared.entry import run
from shared.queue import celery_app, ring
from shared.schema import open_database
from shared.settings import Settings
from shared.storage import open_store
from shared.tasks import stop_on_signal

from .missing import AbsentSince
from .tick import tick

logger = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    stop = stop_on_signal()
    database, store = open_database(settings.sqlalchemy_url), open_store(settings)
    bell = partial(ring, celery_app(settings)) if settings.redis_url else None
    absent: AbsentSince = {}
    while not stop.is_set():
        try:
            tick(database, store, settings, ring=bell, absent=absent)
        except (SQLAlchemyError, BrokerError) as error:
            logger.warning("tick given up, trying again", extra={"reason": str(error)})
        stop.wait(settings.tick_seconds)


if __name__ == "__main__":
    run(main)
