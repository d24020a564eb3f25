"""Operations and bytes of an image as diffusers computes it, counted on the meta device."""

from collections import Counter
from pathlib import Path
from typing import Any

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from services.sd_worker.flops import TOKENS, evaluations
from shared.specs import LATENT_PIXELS, Recipe

aten = torch.ops.aten
PRODUCTS = {aten.mm: "gemm", aten.addmm: "gemm", aten.convolution: "conv"}  # every other one is of an attention
NORMS = {aten.group_norm.default: 3, aten.layer_norm.default: 2}  # passes over the images: reads, and one write


class Bytes(TorchDispatchMode):
    """What normalisations and pointwise operations move when each is a pass of its own, as without a compiler."""

    def __init__(self, bytes_per_number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
        self._each = bytes_per_number
        self.moved: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in NORMS:
            self.moved["norm"] += NORMS[func] * args[0].numel() * self._each
        elif torch.Tag.pointwise in func.tags:
            tensors = [value for value in (*args, output) if isinstance(value, Tensor)]
            self.moved["pointwise"] += sum(tensor.numel() for tensor in tensors) * self._each
        return output


class Counts:
    """Of one image: FLOPs of the network by kind and of the decoder, and bytes of the network's other passes."""

    def __init__(self, folder: Path, recipe: Recipe, dtype: torch.dtype) -> None:
        with torch.device("meta"), torch.inference_mode():
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
            vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae"))
            latents = torch.empty(1, 4, recipe.height // LATENT_PIXELS, recipe.width // LATENT_PIXELS)
            text = torch.empty(1, TOKENS, unet.config.cross_attention_dim)
            with FlopCounterMode(display=False) as network, Bytes(dtype.itemsize) as passes:
                unet(latents, torch.empty(()), text)
            with FlopCounterMode(display=False) as decoder:
                vae.decode(latents)
        samples = evaluations(folder, recipe)
        self.network: Counter[str] = Counter()
        for operation, count in network.get_flop_counts()["Global"].items():
            self.network[PRODUCTS.get(operation, "attention")] += samples * count
        self.bytes = Counter({kind: samples * count for kind, count in passes.moved.items()})
        self.decoder: int = decoder.get_total_flops()

    @property
    def total(self) -> int:
        return self.network.total() + self.decoder

    def milliseconds(self, flop_per_second: float, bytes_per_second: float) -> dict[str, float]:
        """By kind, if nothing were slower than these two rates."""
        found = {kind: 1000 * flop / flop_per_second for kind, flop in self.network.items()}
        found |= {kind: 1000 * moved / bytes_per_second for kind, moved in self.bytes.items()}
        return found | {"decoder": 1000 * self.decoder / flop_per_second}
