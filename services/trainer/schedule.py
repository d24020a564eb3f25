"""The learning rate, set before every step."""

import math
from typing import NamedTuple


class Schedule(NamedTuple):
    """Linear warm-up from zero, then half a cosine (Loshchilov and Hutter 2017, without restarts)."""

    peak: float
    final: float
    warmup_steps: int
    steps: int

    def rate(self, step: int) -> float:
        """Learning rate of the step with this number, the first being 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        passed = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.final + (self.peak - self.final) * (1 + math.cos(math.pi * passed)) / 2
