"""Networks by timm's names, and the encoder that a training leaves behind."""

import difflib
from collections.abc import Sequence

import timm.layers
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from shared.errors import CorruptObject, Rejected
from shared.specs import ImportedSpec, TrainedSpec

from .heads import with_head


class EncoderCard(BaseModel):
    """What must be known to use an encoder's weights, and where they come from.

    Of one that was imported `images` and `seconds` are 0: nobody told.
    """

    model_config = ConfigDict(frozen=True)

    training: str
    architecture: str
    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    spec: TrainedSpec
    recipe_digests: tuple[str, ...]
    images: int
    seconds: float
    versions: dict[str, str]


def check_architecture(name: str) -> None:
    known = timm.list_models()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5)
        hint = f"close names: {', '.join(close)}" if close else "timm.list_models() lists them"
        raise Rejected(f"unknown architecture {name!r}; {hint}", pointer="/architecture")


def create_network(
    name: str, *, classes: int, image_size: int, other_sizes: Sequence[int] = (), temperature: float = 0.0
) -> nn.Module:
    """Randomly initialised; a temperature above 0 gives it a cosine head.

    Raises Rejected when timm has no such network, it cannot take images of these sizes, or its head has another form.
    """
    check_architecture(name)
    # Vision transformers hold one position per patch and must be told the size; other networks take no such argument.
    released = timm.get_pretrained_cfg(name)
    fixed = {"img_size": image_size} if released is not None and released.fixed_input_size else {}
    tried = image_size
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **fixed)
        for tried in (image_size, *other_sizes):
            with torch.no_grad():
                network.eval()(torch.zeros(1, 3, tried, tried))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise Rejected(
            f"architecture {name!r} cannot take images of {tried} x {tried}: {error}; "
            "give another image_size, other crops or another architecture"
        ) from error
    return with_head(network, temperature)


def with_shared_statistics(network: nn.Module) -> nn.Module:
    """Batch normalisation over the images of all GPUs, as if one GPU had them all."""
    converted: nn.Module = timm.layers.convert_sync_batchnorm(network)
    return converted


def library_versions() -> dict[str, str]:
    return {"torch": torch.__version__, "timm": timm.__version__}


def load_encoder(card: EncoderCard, weights: bytes) -> nn.Module:
    """The trained network in evaluation mode."""
    # An imported head is linear: a cosine head is our own and has no published weights.
    temperature = 0.0 if isinstance(card.spec, ImportedSpec) else card.spec.recipe.temperature
    network = create_network(
        card.architecture, classes=len(card.class_ids), image_size=card.image_size, temperature=temperature
    )
    try:
        network.load_state_dict(load(weights))
    except (RuntimeError, SafetensorError) as error:
        raise CorruptObject(f"the weights of {card.training} do not fit {card.architecture}: {error}") from error
    return network.eval()
