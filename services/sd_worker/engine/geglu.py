"""A linear layer and its gate (GEGLU: Shazeer 2020, arXiv 2002.05202) without the layer's output in memory."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .choices import Operation, computed
from .launching import programs, unfit


class Tile(NamedTuple):
    """Of `rows` and `columns` of the output, `depth` of the summed dimension at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


TILES = (Tile(128, 128, 64, warps=8, stages=3), Tile(128, 64, 64, warps=8, stages=4))
BAND = 8


def gated(tokens: Tensor, layer: nn.Linear) -> Tensor:
    """tokens (..., K) to (..., F) by a layer of 2 F outputs: values first, gates after."""
    return computed(OPERATION, tokens, layer.weight, layer.bias)


def plain(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    value, gate = F.linear(tokens, weight, bias).chunk(2, dim=-1)
    return value * F.gelu(gate)


@torch.library.custom_op("synthclone::geglu", mutates_args=())
def fused(tokens: Tensor, weight: Tensor, bias: Tensor, tile: int) -> Tensor:
    tokens, weight = tokens.contiguous(), weight.contiguous()
    width, taken = len(weight) // 2, tokens.shape[-1]
    rows, shape = tokens.numel() // taken, TILES[tile]
    outputs = tokens.new_empty((*tokens.shape[:-1], width))
    tiles = -(-rows // shape.rows) * -(-width // shape.columns)
    with unfit():
        programs().gated_product[(tiles,)](
            tokens, weight, bias, outputs, rows, width, taken,
            ROWS=shape.rows, COLUMNS=shape.columns, DEPTH=shape.depth, BAND=BAND,
            num_warps=shape.warps, num_stages=shape.stages,
        )  # fmt: skip
    return outputs


@fused.register_fake
def _(tokens: Tensor, weight: Tensor, bias: Tensor, tile: int) -> Tensor:
    return tokens.new_empty((*tokens.shape[:-1], len(weight) // 2))


def takes(tokens: Tensor, *_: object) -> bool:
    """Not float32, whose products would be of 10 bits."""
    return tokens.itemsize == 2 and tokens.shape[-1] % max(tile.depth for tile in TILES) == 0


OTHERS = {f"triton {tile.rows} x {tile.columns}": partial(fused, tile=number) for number, tile in enumerate(TILES)}
OPERATION = Operation("geglu", plain, OTHERS, takes)
