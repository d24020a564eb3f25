"""`python -m services.dispatcher`: ticks until told to stop; waits out a database or broker that is away."""

import logging
import sys
from functools import partial

from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import SQLAlchemyError

from shared.entry import run
from shared.queue import celery_app, load_bell, ring
from shared.schema import open_database
from shared.settings import Settings
from shared.storage import open_store
from shared.tasks import stop_on_signal

from .caretaker import Caretaker
from .missing import AbsentSince
from .tick import Ring, tick

logger = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    stop = stop_on_signal()
    database, store = open_database(settings.sqlalchemy_url), open_store(settings)
    # In a cluster workers sleep until it rings, so there celery_app refuses to go without Redis.
    has_bell = settings.redis_url or settings.mode == "cluster"
    bell = ready_bell(settings) if has_bell else None
    absent: AbsentSince = {}
    caretaker = Caretaker(database, store, settings, stop)
    caretaker.start()
    while not stop.is_set():
        try:
            tick(database, store, settings, ring=bell, absent=absent)
        except (SQLAlchemyError, BrokerError) as error:
            logger.warning("tick given up, trying again", extra={"reason": str(error)})
        if caretaker.has_died:
            logger.error("the caretaker died of a bug; its trace is in the log, and this process starts anew")
            sys.exit(1)
        stop.wait(settings.tick_seconds)
    caretaker.end()


def ready_bell(settings: Settings) -> Ring:
    app = celery_app(settings)
    load_bell(app)
    return partial(ring, app)


if __name__ == "__main__":
    run(main)
