"""The training loop."""

import math
import threading
import time
from typing import NamedTuple

from torch import Tensor

from shared.errors import Rejected

from .batches import Stream, batches
from .journal import Journal
from .learner import Learner, learn, state_tensors

MOST_POINTS = 200  # of each curve
LEAST_INTERVAL = 10
AGREE_STEPS = 10  # several ranks compare notes on stopping this often


class Meter:
    """The mean loss and the speed since it was last read."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._since = time.monotonic()

    def add(self, loss: Tensor) -> None:
        self._losses.append(loss)

    def read(self, batch_size: int) -> tuple[float, float]:
        """Mean loss, images per second. Moving losses off a GPU waits for it, so it is done only here."""
        loss = math.fsum(float(value) for value in self._losses) / len(self._losses)
        now = time.monotonic()
        speed = len(self._losses) * batch_size / max(now - self._since, 1e-9)
        self._losses, self._since = [], now
        return loss, speed


class Fitted(NamedTuple):
    step: int
    loss: float


def report_interval(steps: int) -> int:
    return max(LEAST_INTERVAL, math.ceil(steps / MOST_POINTS))


def fit(learner: Learner, stream: Stream, *, start: int, journal: Journal, stop: threading.Event) -> Fitted | None:
    """Train from step `start` to the end; None when told to stop, after a checkpoint."""
    ranks, request, interval = learner.ranks, learner.request, report_interval(stream.steps)
    meter, loss = Meter(), math.nan
    data = batches(stream, start=start, rank=ranks.rank, ranks=ranks.size)
    for done, (images, labels) in enumerate(data, start + 1):
        meter.add(learn(learner, done - 1, images, labels))
        if done % interval == 0 or done == stream.steps:
            loss = report(learner, stream, done=done, meter=meter, journal=journal)
        if done == stream.steps:
            break
        is_stopped = (ranks.size == 1 or done % AGREE_STEPS == 0) and ranks.any_of(stop.is_set())
        if ranks.is_first and (is_stopped or done % request.checkpoint_steps == 0):
            journal.write_checkpoint(done, state_tensors(learner))
        if is_stopped:
            return None
    return Fitted(stream.steps, loss)


def report(learner: Learner, stream: Stream, *, done: int, meter: Meter, journal: Journal) -> float:
    """The mean loss since the last report, written down with the speed and the rate by the first rank."""
    loss, speed = meter.read(stream.batch_size)
    if not math.isfinite(loss):
        raise Rejected(
            f"the loss became {loss} before step {done}; lower learning_rate ({learner.request.learning_rate}) "
            "or give warmup_steps"
        )
    if learner.ranks.is_first:
        values = {"loss": loss, "lr": learner.schedule.rate(done - 1), "images_per_second": speed}
        journal.write_progress(done=done, total=stream.steps, values=values)
    return loss
