"""Images per second of approximated trajectories beside exact ones, and how far apart the images are.

`python -m bench.approximations` on a CPU: the demo model at the scheduler, steps and guidance of its card; exact and
approximated batches take turns, of the same prompts and seeds. Beside it the share of the UNet's operations that each
takes of an exact trajectory of Stable Diffusion 1.4 (50 steps of PNDM, 51 evaluations, guided), counted on no device.
"""

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from services.sd_worker.engine.approximations import Evaluation, plan_evaluations
from services.sd_worker.engine.unet import EngineUNet
from services.sd_worker.generators import Engine, load_generator
from services.sd_worker.machine import Machine
from shared.approximations import Approximation
from shared.settings import PROJECT_ROOT
from shared.specs import Recipe

from .generation.plan import recipe
from .machine import versions, write_result

CPU = torch.device("cpu")
BATCH, ROUNDS = 32, 5
SD14_EVALUATIONS = 51
PROMPTS = ("zero, digit", "one, digit", "two, digit", "three, digit")
PACKAGES = ("torch", "diffusers", "numpy")
EXACT = recipe(scheduler="dpm++", steps=15, guidance=2.0, side=32)
KINDS = (
    Approximation(guidance_interval=(0.2, 0.8)),
    Approximation(guidance_interval=(0.0, 0.5)),
    Approximation(reuse_every=2),
    Approximation(reuse_every=3),
    Approximation(reuse_every=5),
    Approximation(guidance_interval=(0.2, 0.8), reuse_every=3),
)


class Timed(NamedTuple):
    seconds: float
    images: np.ndarray


def timed(engine: Engine, asked: Recipe, first_seed: int) -> Timed:
    prompts = [PROMPTS[index % len(PROMPTS)] for index in range(BATCH)]
    began = time.perf_counter()
    images = engine.start(prompts, range(first_seed, first_seed + BATCH), asked).wait().pixels.astype(int)
    return Timed(time.perf_counter() - began, images)


def compare(engine: Engine, kind: Approximation) -> tuple[float, float]:
    """The median ratio of speeds over the rounds, and the mean distance of grey levels."""
    approximated = EXACT.model_copy(update={"engine": kind})
    ratios, apart = [], []
    for number in range(ROUNDS + 1):
        exact, other = (timed(engine, asked, number * BATCH) for asked in (EXACT, approximated))
        if number:  # the first round warms up
            ratios.append(exact.seconds / other.seconds)
        apart.append(float(np.abs(exact.images - other.images).mean()))
    return statistics.median(ratios), statistics.mean(apart)


def sd14_operations() -> dict[Evaluation, int]:
    """Of each kind of evaluation."""
    counts = {}
    with torch.device("meta"):
        unet = EngineUNet(UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8))
        (biases,), latents = unet.time_biases(torch.empty(1)), torch.empty(1, 4, 64, 64)
        for is_guided in (False, True):
            texts = unet.keys_and_values(torch.empty(2 if is_guided else 1, 77, 768))
            with FlopCounterMode(display=False) as whole:
                _, features = unet.with_features(latents, biases, texts)
            with FlopCounterMode(display=False) as shallow:
                unet.shallow(latents, features, biases, texts)
            counts[Evaluation(is_guided, is_whole=True)] = whole.get_total_flops()
            counts[Evaluation(is_guided, is_whole=False)] = shallow.get_total_flops()
    return counts


def share(kind: Approximation, operations: dict[Evaluation, int]) -> float:
    plan = plan_evaluations(SD14_EVALUATIONS, kind, has_guidance=True)
    exact = SD14_EVALUATIONS * operations[Evaluation(is_guided=True, is_whole=True)]
    return sum(operations[each] for each in plan) / exact


def main() -> None:
    print(f"{versions(PACKAGES)}, {torch.get_num_threads()} threads", flush=True)
    machine = Machine(CPU, batch=BATCH, kernels_dir=Path("unused"))
    engine = load_generator(PROJECT_ROOT / "models" / "digits-sd", machine)
    assert isinstance(engine, Engine)
    operations, rows = sd14_operations(), []
    for kind in KINDS:
        ratio, apart = compare(engine, kind)
        rows.append(
            {
                "approximation": kind.model_dump(mode="json"),
                "ratio": round(ratio, 3),
                "grey_levels": round(apart, 2),
                "sd14_operations": round(share(kind, operations), 3),
            }
        )
        print(f"{kind.label}: {rows[-1]}", flush=True)
    facts = {"threads": torch.get_num_threads(), "batch": BATCH, "rounds": ROUNDS}
    write_result("approximations", facts | {"recipe": EXACT.model_dump(mode="json"), "rows": rows}, PACKAGES)


if __name__ == "__main__":
    main()
