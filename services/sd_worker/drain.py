"""From the device to the host while the device goes on."""

from functools import cache

import torch
from torch import Tensor

from .drawn import Drawn, Pending, Ready


def fetched(pixels: Tensor, is_finite: Tensor) -> Pending:
    """Pixels (N, H, W, 3) and (N,) flags of any device."""
    if pixels.device.type == "cuda":
        return Copying(pixels, is_finite)
    return Ready(Drawn(pixels.cpu().numpy(), is_finite.cpu().numpy()))


class Copying:
    """Into pinned memory, on a stream of its own: the next batch's kernels do not wait for it."""

    def __init__(self, pixels: Tensor, is_finite: Tensor) -> None:
        stream = copy_stream(pixels.device)
        stream.wait_stream(torch.cuda.current_stream(pixels.device))
        with torch.cuda.stream(stream):
            self._pixels, self._is_finite = pinned(pixels), pinned(is_finite)
            self._event = torch.cuda.Event(blocking=True)  # sleeps until it is over: the encoders need the core
            self._event.record(stream)
        for tensor in (pixels, is_finite):
            tensor.record_stream(stream)

    @property
    def is_ready(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> Drawn:
        self._event.synchronize()
        # Copies: pinned memory that is freed after the device failed aborts the process.
        return Drawn(self._pixels.numpy().copy(), self._is_finite.numpy().copy())


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def pinned(tensor: Tensor) -> Tensor:
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return there.copy_(tensor, non_blocking=True)
