"""Batches under way: the device draws one while it is given the next, and threads judge and encode the last.

Each stage takes them in the order of their start and holds no more than a few, so memory is bounded.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from shared.specs import Recipe

from .drawn import Pending
from .encoding import Encoded, Encoders
from .generate import Drawing, ShardWork, Slot

MOST_DRAWING = 2
MOST_ENCODING = 2


class Generator(Protocol):
    """A loaded model: one image per prompt and seed."""

    def start(self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> Pending: ...


class Order(NamedTuple):
    """One image to draw, for the shard that waits for it."""

    shard: ShardWork
    slot: Slot


class DrawingBatch(NamedTuple):
    """On the device; `began` is by the monotonic clock."""

    orders: list[Order]
    drawings: list[Drawing]
    pending: Pending
    was_ready: bool  # at once, so it need not wait for the next one to be started
    began: float


class EncodingBatch(NamedTuple):
    orders: list[Order]
    drawings: list[Drawing]
    encoded: list[Future[Encoded]]

    @property
    def is_done(self) -> bool:
        return all(image.done() for image in self.encoded)

    def results(self) -> Iterator[tuple[Order, Drawing, Encoded]]:
        """Waits for all; raises what went wrong before it gives any."""
        return zip(self.orders, self.drawings, [image.result() for image in self.encoded], strict=True)


class Batches:
    def __init__(self) -> None:
        self.drawing: deque[DrawingBatch] = deque()
        self.encoding: deque[EncodingBatch] = deque()
        self._encoders = Encoders()
        self._landed_at = 0.0

    @property
    def is_empty(self) -> bool:
        return not self.drawing and not self.encoding

    @property
    def must_land(self) -> bool:
        return bool(self.drawing) and (self.drawing[0].was_ready or len(self.drawing) == MOST_DRAWING)

    @property
    def must_collect(self) -> bool:
        return bool(self.encoding) and (self.encoding[0].is_done or len(self.encoding) > MOST_ENCODING)

    def start(self, generator: Generator, orders: list[Order]) -> None:
        """All of one recipe."""
        began = time.monotonic()
        drawings = [order.shard.drawing(order.slot) for order in orders]
        prompts = [drawing.prompt.text for drawing in drawings]
        pending = generator.start(prompts, [drawing.seed for drawing in drawings], orders[0].shard.recipe)
        self.drawing.append(DrawingBatch(orders, drawings, pending, pending.is_ready, began))

    def land(self) -> None:
        """Take the first batch off the device; its time, less that of the batch before, is its shards'."""
        orders, drawings, pending, _, began = self.drawing.popleft()
        drawn = pending.wait()
        began, self._landed_at = max(began, self._landed_at), time.monotonic()
        for order in orders:
            order.shard.seconds += (self._landed_at - began) / len(orders)
        self.encoding.append(EncodingBatch(orders, drawings, self._encoders.start(drawn, orders[0].shard.recipe)))

    def drop(self) -> None:
        self.drawing.clear()
        self.encoding.clear()

    def close(self) -> None:
        self._encoders.close()
