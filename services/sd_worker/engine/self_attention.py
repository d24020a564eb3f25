"""Self-attention of heads of 40 values, Stable Diffusion 1's first level, without padding them to 64."""

import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .choices import Operation, computed
from .launching import programs, unfit

WIDTH, FRONT, BACK = 40, 32, 16  # the last 8 of BACK are zeros


class Tile(NamedTuple):
    """So many keys at a time for so many queries."""

    queries: int
    keys: int
    warps: int
    stages: int


TILES = (Tile(128, 64, warps=8, stages=3), Tile(128, 64, warps=4, stages=3), Tile(128, 128, warps=8, stages=2))


def attended(packed: Tensor, heads: int) -> Tensor:
    """packed (N, T, 3 C), queries, keys and values side by side, to (N, T, C)."""
    return computed(OPERATION, packed, heads)


def plain(packed: Tensor, heads: int) -> Tensor:
    query, key, value = (split(part, heads) for part in packed.chunk(3, dim=-1))
    return joined(F.scaled_dot_product_attention(query, key, value))


@torch.library.custom_op("synthclone::narrow_attention", mutates_args=())
def fused(packed: Tensor, heads: int, tile: int) -> Tensor:
    packed, shape = packed.contiguous(), TILES[tile]
    count, tokens, width = packed.shape
    query, key, value = packed.chunk(3, dim=-1)
    outputs = packed.new_empty((count, tokens, width // 3))
    with unfit():
        programs().narrow_attention[(tokens // shape.queries, count * heads)](
            query, key, value, outputs, tokens * width, width, heads, tokens, math.log2(math.e) / math.sqrt(WIDTH),
            QUERIES=shape.queries, KEYS=shape.keys, WIDTH=WIDTH, FRONT=FRONT, BACK=BACK,
            num_warps=shape.warps, num_stages=shape.stages,
        )  # fmt: skip
    return outputs


@fused.register_fake
def _(packed: Tensor, heads: int, tile: int) -> Tensor:
    return packed.new_empty((*packed.shape[:2], packed.shape[2] // 3))


def takes(packed: Tensor, heads: int) -> bool:
    """Not float32, whose products would be of 10 bits."""
    most = max(side for tile in TILES for side in (tile.queries, tile.keys))
    return packed.itemsize == 2 and packed.shape[-1] == 3 * heads * WIDTH and packed.shape[1] % most == 0


def split(tokens: Tensor, heads: int) -> Tensor:
    """(N, T, heads width) to (N, heads, T, width)."""
    parts: Tensor = tokens.unflatten(-1, (heads, -1))
    return parts.transpose(1, 2)


def joined(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


OTHERS = {
    f"triton {tile.queries} x {tile.keys}, {tile.warps} warps": partial(fused, tile=number)
    for number, tile in enumerate(TILES)
}
OPERATION = Operation("attention", plain, OTHERS, takes)
