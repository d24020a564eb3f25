"""Doubling by nearest neighbour and the 3 x 3 convolution after it, as one convolution with 4/9 of the products."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .choices import Operation, computed


class FoldedUpsample(nn.Module):
    """Takes the place of diffusers' Upsample2D with a convolution."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(folded(convolution.weight.detach()), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, hidden: Tensor, output_size: None = None) -> Tensor:
        """hidden (N, D, H, W) to (N, C, 2 H, 2 W). diffusers gives a size only where it is odd: never here."""
        assert output_size is None
        return computed(OPERATION, hidden, self.weight, self.bias)


def transposed(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv_transpose2d(hidden, weight, bias, stride=2, padding=1)


def takes(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return bias is not None


def in_phases(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same as four 2 x 2 convolutions of stride 1, one for the even or odd rows and columns each, side by side.

    A row and a column too many of each are computed and left out: one convolution of four times the channels is wide.
    """
    height, width = hidden.shape[2:]
    # `spread` has what even outputs take of x[i-1] and x[i] at 3 and 1, and odd ones of x[i] and x[i+1] at 2 and 0.
    by_row = [weight[:, :, last::2].flip(2) for last in (1, 0)]
    parts = [rows[:, :, :, last::2].flip(3) for rows in by_row for last in (1, 0)]
    every = torch.cat(parts, dim=1).transpose(0, 1).contiguous(memory_format=torch.channels_last)
    found = F.conv2d(hidden, every, bias.repeat(4), padding=1).permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1))
    rows = [
        torch.stack([found[:, row : row + height, at : at + width, row, at] for at in (0, 1)], dim=3) for row in (0, 1)
    ]
    return torch.stack(rows, dim=2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def folded(weight: Tensor) -> Tensor:
    """(C, D, 3, 3) to the (D, C, 4, 4) of a transposed convolution; added up in float64."""
    exact = weight.double()
    return spread(spread(exact, 2), 3).transpose(0, 1).to(weight.dtype).contiguous()


def spread(weight: Tensor, dim: int) -> Tensor:
    """Three weights to four along one dimension.

    With u[2i] = u[2i+1] = x[i], the even output w0 u[2i-1] + w1 u[2i] + w2 u[2i+1] is w0 x[i-1] + (w1 + w2) x[i], the
    odd one (w0 + w1) x[i] + w2 x[i+1]; a transposed convolution of stride 2 reads them in this order.
    """
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)


OPERATION = Operation("doubling", transposed, {"four 2 x 2 convolutions": in_phases}, takes)
