"""From the host to the device while the device goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor


@contextmanager
def beside(device: torch.device) -> Iterator[Callable[[Tensor], Tensor]]:
    """Work inside it waits for no batch that is under way; what it hands on goes through the function it gives.

    A copy from the host waits for all that its stream was given before, so these have a stream of their own.
    """
    if device.type != "cuda":
        yield lambda tensor: tensor
        return
    own, main = feed_stream(device), torch.cuda.current_stream(device)

    def hand_on(tensor: Tensor) -> Tensor:
        tensor.record_stream(main)
        return tensor

    with torch.cuda.stream(own):
        yield hand_on
    main.wait_stream(own)


@cache
def feed_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)
