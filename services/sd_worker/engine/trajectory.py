"""A trajectory from noise to pixels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from .attention import attention_kernels
from .group_norm import normalized
from .schedule import Schedule
from .unet import EngineUNet, KeysAndValues, residual
from .upsample import FoldedUpsample


class Table(NamedTuple):
    """A schedule of S evaluations of one network, on its device: made once, so that a trajectory copies nothing."""

    noise_scale: float
    input_scales: tuple[float, ...]
    biases: Tensor  # (S, sum of the residual layers' channels)
    steps: Tensor  # (S, S + 1) of float32


# (network, latents (N, 4, h, w), a row of biases, texts, guidance or None) to float32 (N, 4, h, w).
Step = Callable[[EngineUNet, Tensor, Tensor, Sequence[KeysAndValues], Tensor | None], Tensor]
# (decoder, latents (N, 4, h, w)) to pixels and flags, as `decoded` gives them.
Decode = Callable[[AutoencoderKL, Tensor], tuple[Tensor, Tensor]]


class Residual(nn.Module):
    """A residual layer of diffusers' VAE, computed as those of the network are."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden: Tensor, temb: None = None) -> Tensor:
        return residual(self.block, hidden, self.block.conv1.bias)


class Normalized(nn.Module):
    """A normalisation of diffusers' VAE, with the SiLU that is a module of its own there."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, hidden: Tensor) -> Tensor:
        return normalized(hidden, self.norm, has_silu=True)


def take_over(decoder: Decoder) -> None:
    """Its parts replaced by ours; with another activation than SiLU, its doublings alone."""
    has_silu = isinstance(decoder.mid_block.resnets[0].nonlinearity, nn.SiLU)
    for module in list(decoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, Upsample2D):
                setattr(module, name, FoldedUpsample(child.conv))
            elif isinstance(child, ResnetBlock2D) and has_silu:
                setattr(module, name, Residual(child))
    decoder.conv_norm_out, decoder.conv_act = Normalized(decoder.conv_norm_out), nn.Identity()


@torch.inference_mode()
def make_table(unet: EngineUNet, schedule: Schedule, device: torch.device) -> Table:
    biases = unet.time_biases(schedule.timesteps.to(device))
    steps = torch.from_numpy(schedule.steps).to(device, torch.float32)
    return Table(schedule.noise_scale, schedule.input_scales, biases, steps)


def evaluated(
    unet: EngineUNet, latents: Tensor, biases: Tensor, texts: Sequence[KeysAndValues], guidance: Tensor | None
) -> Tensor:
    """One evaluation: what a compiled step is. Guidance is a tensor () so that each value of it is the same graph."""
    return combined(unet(latents, biases, texts), guidance)


@torch.inference_mode()
def trajectory(
    unet: EngineUNet,
    table: Table,
    noise: Tensor,
    texts: Tensor,
    empty: Tensor | None,
    *,
    guidance: float,
    step: Step = evaluated,
) -> Tensor:
    """The latents (N, 4, h, w) that the decoder takes, from unit noise of that shape.

    texts (N, tokens, width); empty (tokens, width) guides, None where guidance is 1 or less. All outputs are kept, in
    float32: S + 1 times the latents, which is little beside what the network itself holds.
    """
    known = unet.keys_and_values(texts if empty is None else torch.cat([empty.expand_as(texts), texts]))
    weight = None if empty is None else torch.full((), guidance, device=noise.device)
    history = torch.empty((len(table.steps) + 1, *noise.shape), dtype=torch.float32, device=noise.device)
    history[0] = noise
    latents = history[0] * table.noise_scale
    with attention_kernels(noise.device):
        for number, scale in enumerate(table.input_scales):
            seen = (latents * scale).to(noise.dtype)
            history[number + 1] = step(unet, seen, table.biases[number], known, weight)
            latents = torch.tensordot(table.steps[number, : number + 2], history[: number + 2], dims=1)
    return latents


def combined(output: Tensor, guidance: Tensor | None) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, equation 6) of outputs (2 N, ...) without text, then with.

    In float32; without guidance the outputs as they are.
    """
    if guidance is None:
        return output.float()
    without, with_text = output.float().chunk(2)
    both: Tensor = torch.lerp(without, with_text, guidance)
    return both


def unit_noise(shape: tuple[int, int, int], seeds: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(N, *shape), each from its own seed on the CPU: the same on every device."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    noise: Tensor = randn_tensor((len(seeds), *shape), generator=generators, device=device, dtype=dtype)
    return noise


def decoded_part(vae: AutoencoderKL, latents: Tensor) -> tuple[Tensor, Tensor]:
    return as_pixels(vae.decode(latents, return_dict=False)[0])


@torch.inference_mode()
def decoded(
    vae: AutoencoderKL, latents: Tensor, *, at_once: int, decode: Decode = decoded_part
) -> tuple[Tensor, Tensor]:
    """Pixels (N, H, W, 3) of type uint8, and (N,) whether an image was finite before it was rounded."""
    scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
    with attention_kernels(latents.device):
        parts = [decode(vae, part) for part in scaled.split(at_once)]
    pixels, is_finite = (torch.cat(part) for part in zip(*parts, strict=True))
    return pixels, is_finite


def as_pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    """images (N, 3, H, W) about -1..1, rounded as diffusers' own conversion to PIL does."""
    is_finite = images.isfinite().all(dim=(1, 2, 3))
    levels = images.float().nan_to_num().div(2).add(0.5).clamp(0, 1).mul(255).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous(), is_finite
