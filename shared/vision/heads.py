"""Classifying heads on timm networks, other than the linear layer that timm gives them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import Rejected

WEIGHT_DEVIATION = 0.01


class CosineHead(nn.Module):
    """The cosine of the angle between features and each class's weights, divided by a temperature; no bias.

    As in Gidaris and Komodakis 2018, section 3.2, with a fixed temperature instead of a learned scale.
    Features (..., D) to logits (..., classes), float32 also in mixed precision: one step of bfloat16 near a cosine of
    1 would be 0.04 in a logit at a temperature of 0.1.
    """

    def __init__(self, features: int, classes: int, temperature: float) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature {temperature} must be above 0")
        self.temperature = temperature
        # Only the direction of a class's weights counts, so their length is free.
        self.weight = nn.Parameter(torch.randn(classes, features) * WEIGHT_DEVIATION)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            cosines = F.linear(F.normalize(features.float(), dim=-1), F.normalize(self.weight.float(), dim=-1))
            return cosines / self.temperature

    def extra_repr(self) -> str:
        classes, features = self.weight.shape
        return f"features={features}, classes={classes}, temperature={self.temperature}"


def with_head(network: nn.Module, temperature: float) -> nn.Module:
    """The timm network itself, its linear classifier replaced by a CosineHead; 0 or less leaves it as it is.

    Raises Rejected when the network ends in anything but one linear layer.
    """
    if temperature <= 0:
        return network
    place, linear = linear_classifier(network)
    head = CosineHead(linear.in_features, linear.out_features, temperature)
    network.set_submodule(place, head.to(linear.weight.device))
    return network


def linear_classifier(network: nn.Module) -> tuple[str, nn.Linear]:
    """With its name in the network."""
    card: dict[str, object] = network.pretrained_cfg  # type: ignore[assignment]  # timm's; torch knows no such field
    place = card.get("classifier")
    if not isinstance(place, str):
        raise unfit(card, f"{place!r}")
    found = network.get_submodule(place)
    if not isinstance(found, nn.Linear):
        raise unfit(card, f"{place!r}, a {type(found).__name__}")
    return place, found


def unfit(card: dict[str, object], classifier: str) -> Rejected:
    return Rejected(
        f"architecture {card['architecture']!r} has no single linear layer to replace by a cosine head; it classifies "
        f"by {classifier}; give temperature 0 or another architecture",
        pointer="/architecture",
    )
