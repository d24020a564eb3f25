"""The training loop."""

import math
import threading
import time
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from shared.errors import Rejected

from .batches import Stream, batches
from .journal import Journal
from .learner import Learner, learn, state_tensors

MOST_POINTS = 200  # of each curve
LEAST_INTERVAL = 10
SHOWN_IMAGES = 5
AGREE_PARTS = 10  # several ranks compare notes on stopping this often


class Meter:
    """The losses and the speed since they were last read; losses stay on the GPU, for moving one waits for it."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._checked = 0
        self._since = time.monotonic()

    def add(self, loss: Tensor) -> None:
        self._losses.append(loss)

    def first_broken(self) -> int | None:
        """How many steps ago, counted from 0, the loss first was no number; asks only for losses not yet asked for."""
        unchecked = torch.stack(self._losses[self._checked :]) if len(self._losses) > self._checked else torch.zeros(0)
        broken = (~unchecked.isfinite()).nonzero().flatten().tolist()
        self._checked = len(self._losses)
        return len(unchecked) - 1 - broken[0] if broken else None

    def read(self, batch_size: int) -> tuple[float, float]:
        """Mean loss, images per second."""
        loss = math.fsum(torch.stack(self._losses).tolist()) / len(self._losses)
        now = time.monotonic()
        speed = len(self._losses) * batch_size / max(now - self._since, 1e-9)
        self._losses, self._checked, self._since = [], 0, now
        return loss, speed


class Fitted(NamedTuple):
    step: int
    loss: float


def report_interval(steps: int) -> int:
    return max(LEAST_INTERVAL, math.ceil(steps / MOST_POINTS))


def fit(
    learner: Learner, stream: Stream, *, start: int, checkpoint_steps: int, journal: Journal, stop: threading.Event
) -> Fitted | None:
    """Train from step `start` to the end; None when told to stop, after a checkpoint."""
    ranks, interval = learner.ranks, report_interval(stream.steps)
    meter, loss = Meter(), math.nan
    pinned = ranks.device.type == "cuda"
    data = batches(stream, start=start, rank=ranks.rank, ranks=ranks.size, neighbours=ranks.neighbours, pinned=pinned)
    loaded = iter(data)
    agree_steps = max(1, AGREE_PARTS // learner.recipe.accumulate)  # or a stop would outlast the launcher
    for done in range(start + 1, stream.steps + 1):
        meter.add(learn(learner, done - 1, *islice(loaded, learner.recipe.accumulate)))
        is_stopped = (ranks.size == 1 or done % agree_steps == 0) and ranks.any_of(stop.is_set())
        is_saved = done < stream.steps and (is_stopped or done % checkpoint_steps == 0)
        is_reported = done % interval == 0 or done == stream.steps
        if is_saved or is_reported:
            refuse_broken(learner, stream, done=done, meter=meter)
        if is_reported:
            loss = report(learner, stream, done=done, meter=meter, journal=journal)
        if done == stream.steps:
            break
        if ranks.is_first and is_saved:
            refuse_broken_weights(learner, done)
            journal.write_checkpoint(done, state_tensors(learner))
        if is_stopped:
            return None
    return Fitted(stream.steps, loss)


def refuse_broken(learner: Learner, stream: Stream, *, done: int, meter: Meter) -> None:
    """Raises Rejected on every rank where a loss of any was no number, before such weights are stored: the checkpoint
    that is kept is of a step before."""
    ago = meter.first_broken()
    if not learner.ranks.any_of(ago is not None):
        return
    if ago is None:
        raise Rejected(f"the loss was no number on another rank by step {done}; {advice(learner)}")
    step = done - ago
    images = stream.numbers(step - 1)
    raise Rejected(
        f"the loss was no number in step {step}, of images {', '.join(map(str, images[:SHOWN_IMAGES]))}"
        f"{', ...' if len(images) > SHOWN_IMAGES else ''} of epoch {stream.epoch(step - 1)}; {advice(learner)}"
    )


def refuse_broken_weights(learner: Learner, step: int) -> None:
    """A loss is that of the weights before its step; this looks at those after it."""
    for name, weights in learner.network.state_dict().items():
        if not bool(weights.isfinite().all()):
            raise Rejected(f"step {step} made {name} no number; {advice(learner)}")


def advice(learner: Learner) -> str:
    return f"lower learning_rate ({learner.recipe.peak_learning_rate}) or give warmup_steps"


def report(learner: Learner, stream: Stream, *, done: int, meter: Meter, journal: Journal) -> float:
    """The mean loss of all ranks since the last report, which the first writes down with what else describes them."""
    loss, speed = meter.read(stream.recipe.batch_size)
    loss = learner.ranks.mean(loss)
    if learner.ranks.is_first:
        values = {
            "epoch": done * stream.recipe.batch_size / len(stream.source.labels),
            "loss": loss,
            "lr": learner.schedule.rate(done - 1),
            "images_per_second": speed,
            "seconds": round(journal.seconds, 3),
            "processes": learner.ranks.size,
        }
        journal.write_progress(done=done, total=stream.steps, values=values)
    return loss
