"""Waiting out a database or an object store that is away, with growing pauses."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from .database import DATABASE_AWAY
from .errors import Unavailable

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
AWAY = (*DATABASE_AWAY, Unavailable)


def insist(
    action: Callable[[], Result],
    *,
    stop: threading.Event,
    seconds: float,
    is_pointless: Callable[[], bool] = lambda: False,
) -> Result:
    """Repeat what a part that is away refuses; its error rises after `seconds`, or after one more try once stopped."""
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE_SECONDS
    while True:
        is_last = stop.is_set() or time.monotonic() >= deadline
        try:
            return action()
        except AWAY as error:
            if is_last or is_pointless():
                raise
            logger.warning("trying again", extra={"reason": str(error), "in_seconds": pause})
        stop.wait(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
