"""Whether a worker may claim work: what it needs for that was tried, not assumed."""

import time
from collections.abc import Callable, Sequence

from .errors import ConfigurationError, Unavailable
from .workers import Presence

CHECK_SECONDS = 30.0


class Fitness:
    """A worker whose store is away or whose disk is full claims nothing, says so in its row, and uses up no attempt."""

    def __init__(self, presence: Presence, checks: Sequence[Callable[[], None]]) -> None:
        self._presence, self._checks = presence, checks
        self._well_until = 0.0

    @property
    def is_in_doubt(self) -> bool:
        return self._presence.problem is not None

    def require(self) -> None:
        """Raises Unavailable while something is missing; what was found well is not tried again for a while."""
        if not self.is_in_doubt and time.monotonic() < self._well_until:
            return
        try:
            for check in self._checks:
                check()
        except (Unavailable, ConfigurationError) as problem:
            self._presence.set_problem(problem.detail)
            raise Unavailable(problem.detail) from problem
        self._presence.set_problem(None)
        self._well_until = time.monotonic() + CHECK_SECONDS

    def is_well(self) -> bool:
        try:
            self.require()
        except Unavailable:
            return False
        return True

    def doubt(self, reason: str) -> None:
        """Something failed in use: nothing more is claimed until every check was passed again."""
        self._presence.set_problem(reason)
