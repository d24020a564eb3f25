"""`python -m tests.sd_worker.guarded`: each kernel on inputs behind which no memory is: one read too far ends it.

With `--beyond` it reads too far itself, to show that this is so.
"""

import ctypes
import mmap
import sys
from functools import partial

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from torch import Tensor

from services.sd_worker.engine import geglu, group_norm, self_attention

KEPT: list[mmap.mmap] = []


def guarded(tensor: Tensor) -> Tensor:
    """A copy whose last byte is the last one before a page that cannot be read."""
    page, size = mmap.PAGESIZE, tensor.numel() * tensor.itemsize
    whole = -(-size // page) * page
    memory = mmap.mmap(-1, whole + page)
    KEPT.append(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    refused = ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address + whole), page, 0)
    assert not refused, ctypes.get_errno()
    flat = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=whole - size)
    return flat.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def main() -> None:
    half = partial(torch.randn, dtype=torch.float16)
    if "--beyond" in sys.argv:
        ctypes.string_at(guarded(half(5)).data_ptr(), 11)
    for channels, height, width in ((64, 3, 7), (96, 1, 1), (320, 17, 16)):
        images = half(2, channels, height, width).contiguous(memory_format=torch.channels_last)
        group_norm.fused(guarded(images), guarded(half(channels)), guarded(half(channels)), 32, 1e-5, True)
    for rows, taken, outputs in ((1, 64, 8), (130, 128, 200)):
        given = guarded(half(rows, taken)), guarded(half(2 * outputs, taken)), guarded(half(2 * outputs))
        for tile in range(len(geglu.TILES)):
            geglu.fused(*given, tile)
    packed = guarded(half(1, 128, 3 * 2 * self_attention.WIDTH))
    for tile in range(len(self_attention.TILES)):
        self_attention.fused(packed, 2, tile)


if __name__ == "__main__":
    main()
