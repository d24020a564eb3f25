"""Slow work cut into steps, so that several pieces of it can take turns."""

import logging
import threading
import time
from collections.abc import Callable, Iterator

from sqlalchemy.exc import SQLAlchemyError

from shared.errors import AppError

logger = logging.getLogger(__name__)
TURN_SECONDS = 2.0


class Chore:
    """Work that is due again `every_seconds` after it ended, or `again_seconds` after something did not answer.

    Each item of `begin()` is one step of it.
    """

    def __init__(
        self, name: str, begin: Callable[[], Iterator[None]], *, every_seconds: float, again_seconds: float = 10.0
    ) -> None:
        self.name = name
        self._begin, self._every_seconds, self._again_seconds = begin, every_seconds, again_seconds
        self._steps: Iterator[None] | None = None
        self._due = time.monotonic()

    @property
    def is_waiting(self) -> bool:
        return self._steps is None and time.monotonic() < self._due

    def work(self, stop: threading.Event) -> None:
        """One turn. What does not answer now is tried again soon, from the beginning."""
        end = time.monotonic() + TURN_SECONDS
        try:
            while not (self.is_waiting or stop.is_set() or time.monotonic() > end):
                self._step()
        except (SQLAlchemyError, AppError) as problem:
            logger.warning("chore given up for now", extra={"chore": self.name, "reason": str(problem)})
            self._rest(self._again_seconds)

    def _step(self) -> None:
        self._steps = self._steps or self._begin()
        try:
            next(self._steps)
        except StopIteration:
            self._rest(self._every_seconds)

    def _rest(self, seconds: float) -> None:
        self._steps, self._due = None, time.monotonic() + seconds
