"""A trajectory from noise to pixels."""

from collections.abc import Sequence

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.upsampling import Upsample2D
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor, nn

from .schedule import Schedule
from .unet import EngineUNet
from .upsample import FoldedUpsample

DECODED_AT_ONCE = 8  # 512 x 512 images; the decoder needs 0.4 GB for each


def fold_upsampling(decoder: nn.Module) -> None:
    """Each doubling of diffusers' VAE replaced by ours."""
    for module in list(decoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, Upsample2D):
                setattr(module, name, FoldedUpsample(child.conv))


@torch.inference_mode()
def trajectory(
    unet: EngineUNet, schedule: Schedule, noise: Tensor, texts: Tensor, empty: Tensor | None, *, guidance: float
) -> Tensor:
    """The latents (N, 4, h, w) that the decoder takes, from unit noise of that shape.

    texts (N, tokens, width); empty (tokens, width) guides, None where guidance is 1 or less. All outputs are kept, in
    float32: S + 1 times the latents, which is little beside what the network itself holds.
    """
    device, dtype = noise.device, noise.dtype
    biases = unet.time_biases(schedule.timesteps.to(device))
    known = unet.keys_and_values(texts if empty is None else torch.cat([empty.expand_as(texts), texts]))
    steps = torch.from_numpy(schedule.steps).to(device, torch.float32)
    history = torch.empty((steps.shape[1], *noise.shape), dtype=torch.float32, device=device)
    history[0] = noise
    latents = noise * schedule.noise_scale
    for number, scale in enumerate(schedule.input_scales):
        output = unet((latents * scale).to(dtype), biases[number], known)
        history[number + 1] = output if empty is None else guided(output, guidance)
        latents = torch.tensordot(steps[number, : number + 2], history[: number + 2], dims=1)
    return latents


def guided(output: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, equation 6): outputs (2 N, ...) without text, then with."""
    without, with_text = output.float().chunk(2)
    both: Tensor = torch.lerp(without, with_text, guidance)
    return both


def unit_noise(shape: tuple[int, int, int], seeds: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(N, *shape), each from its own seed on the CPU: the same on every device."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    noise: Tensor = randn_tensor((len(seeds), *shape), generator=generators, device=device, dtype=dtype)
    return noise


@torch.inference_mode()
def decoded(vae: AutoencoderKL, latents: Tensor) -> NDArray[np.float32]:
    """Images (N, H, W, 3) in 0..1; NaN is passed on for the gate to see."""
    scaled = (latents / vae.config.scaling_factor).to(vae.dtype)
    parts = [vae.decode(part, return_dict=False)[0] for part in scaled.split(DECODED_AT_ONCE)]
    images = torch.cat(parts).float().div(2).add(0.5).clamp(0, 1)
    return images.permute(0, 2, 3, 1).cpu().numpy()
