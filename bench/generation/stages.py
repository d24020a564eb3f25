"""A benchmark within a time limit: what each stage took, and what there was no time for."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stages:
    def __init__(self, limit_seconds: float, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._until = clock() + limit_seconds
        self.seconds: dict[str, float] = {}
        self.left_out: list[str] = []

    @property
    def left(self) -> float:
        return self._until - self._clock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = self._clock()
        yield
        self.seconds[name] = round(self._clock() - started, 1)
        print(f"[{self.left:4.0f} s left] {name}: {self.seconds[name]:.1f} s", flush=True)

    def has_time(self, name: str, seconds: float) -> bool:
        """Whether `name` can be done in the time left; if not, it is noted as left out."""
        if self.left >= seconds:
            return True
        self.leave_out(f"{name}: {self.left:.0f} s were left, {seconds:.0f} s wanted")
        return False

    def leave_out(self, what: str) -> None:
        self.left_out.append(what)
        print(f"left out: {what}", flush=True)
