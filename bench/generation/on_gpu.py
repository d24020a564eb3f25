"""On a GPU: A, A' and B by turns on Stable Diffusion 1.4's configuration, with errors, profile, rates and starts."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from bench.machine import write_result
from services.sd_worker.engine.choices import trials
from services.sd_worker.engine.kernels import versions
from services.sd_worker.flops import matmul_rate

from . import errors, report
from .arms import Arm, Images, Ours, Plain, compile_as_usual, load_plain
from .counts import Counts
from .device import copy_rate, reading, seconds_of
from .kernels import Profile, record
from .plan import FULL, TINY, Plan, batch
from .result import Errors, ImageError, ProfileResult, Result, WorkerResult, missed
from .rounds import Rounds
from .stages import Stages
from .start import start, start_apart
from .weights import model_folder
from .whole import beside_engine

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")
# Seconds that a stage is not begun without; the limit is kept by leaving out the last ones.
COMPILING, AFTER_ROUNDS, ERRORS, WHOLE, PROFILES, WARM_START = 150, 110, 30, 60, 30, 45


def main(*, is_tiny: bool = False) -> list[str]:
    """The limits that were missed; a tiny run judges none."""
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(TINY if is_tiny else FULL, Path(scratch), keep=forget if is_tiny else write)
    print(report.markdown(result))
    return [] if is_tiny else missed(result)


def forget(result: Result) -> None:
    """Of a tiny run nothing is kept."""


def write(result: Result) -> None:
    write_result("generation_gpu", result.model_dump(mode="json"), PACKAGES)


def measure(plan: Plan, scratch: Path, *, keep: Callable[[Result], None]) -> Result:
    """`keep` is given the result after the rounds and after each stage that follows: what fails later costs no more."""
    stages = Stages(plan.limit_seconds)
    with stages.stage("weights"):
        folder, weights = model_folder(plan, scratch / "model")
    with stages.stage("rates of the device"):
        matmul = matmul_rate(plan.device, plan.half)
        copy = copy_rate(plan.copy_bytes, plan.device)
    with stages.stage("A: batch sweep"):
        plain = load_plain(folder, plan)
        sweep = sweep_batches(plain, plan)
    best = max(sweep, key=sweep.__getitem__)
    with stages.stage("B: first start, with an empty cache"):
        ours, cold = start(folder, scratch, plan)
    arms: list[Arm] = [Plain("A", best, plain, plan.recipe), ours]
    if stages.has_time("A'", COMPILING):
        with stages.stage("A': compilation"):
            arms.insert(1, load_compiled(folder, plan, best))
    rounds = Rounds(plan, [*arms, Plain("A, one by one", 1, plain, plan.recipe)])
    slowest = plan.recipe.steps / plan.sweep_steps / sweep[best]
    before = reading()
    rounds.draw(stages, seconds_per_image=slowest, reserved_seconds=AFTER_ROUNDS)
    watched = {"before": before, "after": reading()}
    counts = Counts(folder, plan.recipe, plan.half)
    result = Result(
        weights=weights,
        device=torch.cuda.get_device_name() if plan.device.type == "cuda" else "cpu",
        libraries=versions(),
        recipe=plan.recipe.model_dump(include={"scheduler", "steps", "guidance", "width", "height"}),
        teraflop_per_image=round(counts.total / 1e12, 4),
        matmul_teraflop_per_second=round(matmul / 1e12, 3),
        copy_terabyte_per_second=round(copy / 1e12, 3),
        sweep_steps=plan.sweep_steps,
        sweep=sweep,
        arms=rounds.results(flop_per_image=counts.total, flop_per_second=matmul),
        ratios=rounds.ratios("B"),
        errors=None,
        whole=None,
        profile=None,
        choices=dict(trials.known),
        cold_start_seconds=cold,
        warm_start_seconds=None,
        watched=watched,
        stage_seconds=stages.seconds,
        left_out=tuple(stages.left_out),
    )
    later: dict[str, Callable[[], object]] = {
        "errors": lambda: find_errors(arms, rounds.first_images, folder, plan, stages),
        "whole": lambda: find_whole(ours, plan, scratch, stages),
        "profile": lambda: find_profile(arms, ours, counts.milliseconds(matmul, copy), plan, stages),
        "warm_start_seconds": lambda: start_again(folder, scratch, plan, stages),
    }
    keep(result)
    for field, find in later.items():
        found = {field: find(), "stage_seconds": stages.seconds, "left_out": tuple(stages.left_out)}
        result = result.model_copy(update=found)
        keep(result)
    return result


def sweep_batches(pipeline: StableDiffusionPipeline, plan: Plan) -> dict[int, float]:
    """Images/s in few steps for each size of a batch."""
    found = {}
    for size in plan.sweep:
        arm, given = Plain("A", size, pipeline, plan.recipe), batch(size)
        arm.images(given, 1)
        seconds = seconds_of(lambda arm=arm, given=given: arm.images(given, plan.sweep_steps), plan.device)  # type: ignore[misc]
        found[size] = round(size / seconds, 3)
        print(f"  A, batch {size}, {plan.sweep_steps} steps: {found[size]} images/s", flush=True)
    return found


def load_compiled(folder: Path, plan: Plan, size: int) -> Plain:
    arm = Plain("A'", size, compile_as_usual(load_plain(folder, plan), plan.backend), plan.recipe)
    arm.images(batch(size), 1)
    return arm


def find_errors(
    arms: Sequence[Arm], drawn: dict[str, Images], folder: Path, plan: Plan, stages: Stages
) -> Errors | None:
    if not stages.has_time("errors", ERRORS):
        return None
    with stages.stage("errors"):
        # A's own weights, so that only arithmetic differs.
        exact = load_plain(folder, plan).to(plan.exact)
        of_evaluations = errors.of_evaluations(arms, exact, plan)
        expected = errors.exact_images(exact, plan)
    return Errors(
        timesteps=errors.TIMESTEPS,
        evaluations={name: tuple(values) for name, values in of_evaluations.items()},
        evaluations_rms={name: errors.root_mean_square(values) for name, values in of_evaluations.items()},
        images={arm.name: ImageError(**errors.of_images(drawn[arm.name], expected)) for arm in arms},
        contrast=round(errors.contrast(expected), 2),
    )


def find_whole(ours: Ours, plan: Plan, scratch: Path, stages: Stages) -> WorkerResult | None:
    if not stages.has_time("the whole worker", WHOLE):
        return None
    with stages.stage("the whole worker"):
        return beside_engine(ours, plan, scratch / "whole")


def find_profile(
    arms: Sequence[Arm], ours: Ours, ideal: dict[str, float], plan: Plan, stages: Stages
) -> ProfileResult | None:
    if not stages.has_time("profiles", PROFILES):
        return None
    with stages.stage("profiles"):
        side = plan.recipe.width // 8
        latents = torch.randn(ours.batch, 4, side, side, device=plan.device)
        whole = Profile(record(lambda: ours.draw([batch(ours.batch)]), plan.device))
        decoder = Profile(record(lambda: ours.decode(latents), plan.device))
        kernels = {arm.name: step_kernels(arm, plan) for arm in arms if isinstance(arm, Plain)} | {"B": whole.names}
    taken = {kind: value - decoder.milliseconds[kind] for kind, value in whole.milliseconds.items()}
    taken |= {"decoder": sum(decoder.milliseconds.values()), "idle": whole.idle}
    return ProfileResult(
        milliseconds={kind: round(value / ours.batch, 4) for kind, value in taken.items()},
        ideal_milliseconds={kind: round(value, 4) for kind, value in ideal.items()},
        kernels=kernels,
    )


def step_kernels(arm: Plain, plan: Plan) -> dict[str, tuple[str, ...]]:
    return Profile(record(lambda: arm.images(batch(arm.batch), 1), plan.device)).names


def start_again(folder: Path, data: Path, plan: Plan, stages: Stages) -> dict[str, float] | None:
    if not stages.has_time("start of a second process", WARM_START):
        return None
    with stages.stage("start of a second process"):
        found = start_apart(folder, data, plan, limit_seconds=stages.left)
    if found is None:
        stages.leave_out("start of a second process: it took longer than the time left")
    return found
