"""How far each way of drawing is from the same weights in higher precision: one evaluation, and whole images."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from services.sd_worker.engine.trajectory import unit_noise

from .arms import Arm, Images, Plain, library_defaults
from .plan import Plan, batch
from .result import LEAST_ERROR

TIMESTEPS = (1, 201, 481, 761, 981)
COMPARED = 2  # prompts


@contextmanager
def full_precision() -> Iterator[None]:
    """Without the 10-bit products that PyTorch's convolutions use for float32 by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@torch.no_grad()
def of_evaluations(arms: Sequence[Arm], exact: StableDiffusionPipeline, plan: Plan) -> dict[str, list[float]]:
    """For each arm, timestep and prompt: |output - exact| / |exact|, both halves of guidance together.

    Each arm is given a batch of the size that it draws with, so that the same kernels run; the first two are compared.
    """
    side = plan.recipe.width // 8
    found: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for number, at in enumerate(TIMESTEPS):
        timestep = torch.tensor(at, device=plan.device)
        for arm in arms:
            texts, empty = embedded(exact, arm.batch)
            seeds = range(1000 * number, 1000 * number + arm.batch)
            noise = unit_noise((4, side, side), seeds, plan.device, plan.half)
            outputs = arm.outputs(noise, timestep, texts.to(plan.half), empty.to(plan.half))
            expected = exact_outputs(exact, noise, timestep, texts.to(plan.half), empty.to(plan.half), plan)
            halves = outputs.to(plan.exact).view(2, arm.batch, *outputs.shape[1:])
            for image in range(min(COMPARED, arm.batch)):
                found[arm.name].append(relative(halves[:, image], expected[:, image]))
    return found


@torch.no_grad()
def exact_images(exact: StableDiffusionPipeline, plan: Plan) -> list[Image.Image]:
    """The first images of all arms, from the same rounded noise."""
    given, side = batch(plan.compared), plan.recipe.width // 8
    noise = unit_noise((4, side, side), given.seeds, plan.device, plan.half).to(plan.exact)
    with full_precision(), library_defaults():
        found: list[Image.Image] = exact(
            given.prompts,
            latents=noise,
            num_inference_steps=plan.recipe.steps,
            guidance_scale=plan.recipe.guidance,
            width=plan.recipe.width,
            height=plan.recipe.height,
        ).images
    return found


def embedded(pipeline: StableDiffusionPipeline, size: int) -> tuple[Tensor, Tensor]:
    """(size, 77, width) and (77, width): of the prompts of a batch, and of none."""
    known = pipeline.encode_prompt(
        [*batch(size).prompts, ""], pipeline._execution_device, 1, do_classifier_free_guidance=False
    )[0]
    return known[:-1], known[-1]


def exact_outputs(
    exact: StableDiffusionPipeline, noise: Tensor, timestep: Tensor, texts: Tensor, empty: Tensor, plan: Plan
) -> Tensor:
    """(2, COMPARED, 4, h, w), from the same rounded inputs."""
    first, text = noise[:COMPARED].to(plan.exact), texts[:COMPARED].to(plan.exact)
    with full_precision():
        arm = Plain("exact", COMPARED, exact, plan.recipe)
        outputs = arm.outputs(first, timestep, text, empty.to(plan.exact))
    return outputs.view(2, len(first), *outputs.shape[1:])


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


def of_images(found: Images, expected: Images) -> dict[str, float]:
    """In grey levels, over all of these images together."""
    apart = levels(found) - levels(expected)
    rms = math.sqrt(float(np.square(apart).mean()))
    decibels = 20 * math.log10(255 / max(rms, LEAST_ERROR))
    return {"rms": round(rms, 4), "psnr_db": round(decibels, 2), "most": float(np.abs(apart).max())}


def contrast(images: Images) -> float:
    return float(levels(images).std())


def levels(images: Images) -> NDArray[np.float64]:
    return np.stack([np.asarray(image, dtype=np.float64) for image in images])
