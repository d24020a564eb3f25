"""On a CPU: the demo model with the recipe of its datasets, and a Stable Diffusion 1.4 of few channels.

A is `StableDiffusionPipeline` in float32, B the worker's engine; both are given the prompts' embeddings and return
pixels, and take turns.
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from bench.machine import versions, write_result
from services.sd_worker.generators import Engine
from services.sd_worker.machine import Machine
from services.sd_worker.pipeline import Generator, load_pipeline
from shared.settings import PROJECT_ROOT
from shared.specs import Recipe

from .plan import recipe

CPU = torch.device("cpu")
FOLDER = PROJECT_ROOT / "models" / "digits-sd"
ROUNDS = 5
LEAST_DEMO = 1.3
MOST_GREY_LEVELS = 1
PROMPTS = ("zero, digit", "one, digit", "two, digit", "three, digit")
PACKAGES = ("torch", "diffusers", "numpy")


class Case(NamedTuple):
    name: str
    batch: int
    recipe: Recipe
    is_narrow: bool = False


DEMO = recipe(scheduler="dpm++", steps=12, guidance=2.0, side=32)
NARROW = recipe(scheduler="pndm", steps=10, guidance=7.5, side=256)
CASES = (
    Case("digits-sd", 32, DEMO),
    Case("digits-sd, no guidance", 32, DEMO.model_copy(update={"guidance": 1.0})),
    Case("narrow Stable Diffusion 1.4", 4, NARROW, is_narrow=True),
)


def pipeline_of(case: Case) -> StableDiffusionPipeline:
    pipeline = load_pipeline(FOLDER, CPU)
    return narrowed(pipeline) if case.is_narrow else pipeline


def narrowed(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(64, 128, 256, 256),
        layers_per_block=2,
        cross_attention_dim=pipeline.text_encoder.config.hidden_size,
        attention_head_dim=8,
    ).eval()
    with torch.no_grad():
        unet.conv_out.weight.mul_(3)  # outputs as large as the noise, so that a fault reaches the image
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    ).eval()
    pipeline.register_modules(unet=unet, vae=vae)
    pipeline.vae_scale_factor = 8
    return pipeline


def timed(generator: Engine | Generator, case: Case, seeds: Sequence[int]) -> tuple[float, np.ndarray]:
    prompts = [PROMPTS[index % len(PROMPTS)] for index in range(case.batch)]
    started = time.perf_counter()
    images = generator.start(prompts, seeds, case.recipe).wait().pixels.astype(int)
    return time.perf_counter() - started, images


class Comparison(NamedTuple):
    ratio: float
    grey_levels: float
    facts: dict[str, object]


def compare(case: Case, *, rounds: int = ROUNDS) -> Comparison:
    plain, engine = (
        Generator(pipeline_of(case)),
        Engine(pipeline_of(case), lambda: plain, Machine(CPU, case.batch, kernels_dir=Path())),
    )
    seconds: dict[str, list[float]] = {"A": [], "B": []}
    apart = 0.0
    for number in range(rounds + 1):
        seeds = range(number * case.batch, (number + 1) * case.batch)
        first, expected = timed(plain, case, seeds)
        second, found = timed(engine, case, seeds)
        apart = max(apart, float(np.abs(found - expected).max()))
        if number:  # the first round reads weights and text
            seconds["A"].append(first)
            seconds["B"].append(second)
    speeds = {name: case.batch / statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds["A"], seconds["B"], strict=True))
    print(
        f"{case.name:30} batch {case.batch:3}  A {speeds['A']:8.2f} img/s  B {speeds['B']:8.2f} img/s  "
        f"B/A {ratio:5.2f}  at most {apart:.0f} grey levels apart",
        flush=True,
    )
    facts: dict[str, object] = {
        "case": case.name,
        "batch": case.batch,
        "recipe": case.recipe.model_dump(mode="json"),
        "images_per_second": {name: round(speed, 2) for name, speed in speeds.items()},
        "ratio": round(ratio, 3),
        "grey_levels": apart,
        "seconds": {name: [round(value, 4) for value in values] for name, values in seconds.items()},
    }
    return Comparison(ratio, apart, facts)


def main() -> list[str]:
    """The limits that were missed."""
    print(f"{versions(PACKAGES)}, {torch.get_num_threads()} threads", flush=True)
    found = [compare(case) for case in CASES]
    facts = {"threads": torch.get_num_threads(), "cases": [each.facts for each in found]}
    write_result("generation", facts, PACKAGES)
    apart = max(each.grey_levels for each in found)
    missed = []
    if found[0].ratio < LEAST_DEMO:
        missed.append(f"B/A of the demo model {found[0].ratio:.2f}, at least {LEAST_DEMO}")
    if apart > MOST_GREY_LEVELS:
        missed.append(f"images {apart:.0f} grey levels apart, at most {MOST_GREY_LEVELS}")
    return missed
