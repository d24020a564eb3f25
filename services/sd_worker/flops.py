"""How much arithmetic an image is, and how fast a device does arithmetic: what a rate of images is measured against."""

import time
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from shared.specs import Recipe

from .pipeline import SCHEDULERS

TOKENS = 77
# Rows of the square matrices: large enough for every core or multiprocessor, small enough for its memory.
MATRIX_ROWS = {"cuda": 8192, "cpu": 1024}
MATMUL_SECONDS = 1.0


def image_flop(folder: Path, recipe: Recipe) -> int:
    """Floating-point operations of one image, two for a multiplication with its addition, by diffusers' own networks.

    Counts what a plain pipeline computes, so that arithmetic an engine saves shows as its gain; without the text
    encoder, whose results are kept. Reads the configurations in `folder` alone.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae"))
        pixels = 2 ** (len(vae.config.block_out_channels) - 1)
        latents = torch.empty(1, unet.config.in_channels, recipe.height // pixels, recipe.width // pixels)
        text = torch.empty(1, TOKENS, unet.config.cross_attention_dim)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as evaluation:
            unet(latents, torch.empty((), device="meta"), text)
        with FlopCounterMode(display=False) as decoding:
            vae.decode(latents)
    return evaluations(folder, recipe) * int(evaluation.get_total_flops()) + int(decoding.get_total_flops())


def evaluations(folder: Path, recipe: Recipe) -> int:
    """Of the network for one image: guidance doubles them, and some samplers repeat a step."""
    kind = SCHEDULERS[recipe.scheduler]
    sampler = kind.from_config(kind.load_config(folder / "scheduler"))
    sampler.set_timesteps(recipe.steps)
    return len(sampler.timesteps) * (2 if recipe.guidance > 1 else 1)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second in products of square matrices of random numbers: zeros would draw less power."""
    rows = MATRIX_ROWS[device.type]
    left, right = (torch.randn(rows, rows, device=device, dtype=dtype) for _ in range(2))
    left @ right
    wait_for(device)
    began, products = time.perf_counter(), 0
    while time.perf_counter() - began < MATMUL_SECONDS:
        left @ right
        wait_for(device)
        products += 1
    return products * 2 * rows**3 / (time.perf_counter() - began)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
