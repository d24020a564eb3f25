"""Doubling by nearest neighbour and the 3 x 3 convolution after it, as one convolution with 4/9 of the products."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FoldedUpsample(nn.Module):
    """Takes the place of diffusers' Upsample2D with a convolution."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(folded(convolution.weight.detach()), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, hidden: Tensor, output_size: None = None) -> Tensor:
        """hidden (N, D, H, W) to (N, C, 2 H, 2 W). diffusers gives a size only where it is odd: never here."""
        assert output_size is None
        return F.conv_transpose2d(hidden, self.weight, self.bias, stride=2, padding=1)


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
