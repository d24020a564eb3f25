"""Where an image stops being finite: the module, or the sampler, that first gives an infinity or a NaN."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from shared.specs import Recipe

from .pipeline import SCHEDULERS

WIDER = "float32 or bfloat16"


class Overflow(NamedTuple):
    """`evaluation` counts the UNet's calls from 1 and is 0 before the first; `largest` is the greatest magnitude that
    was still finite since that call began."""

    place: str
    evaluation: int
    largest: float
    dtype: str

    @property
    def text(self) -> str:
        when = f" in evaluation {self.evaluation} of the UNet" if self.evaluation else ""
        return (
            f"{self.place} is the first whose output is not finite{when}, computed in {self.dtype}; the largest "
            f"magnitude before it was {self.largest:.5g}"
        )

    @property
    def remedy(self) -> str:
        if self.dtype == "float16":
            return f"float16 ends at 65504: register the model with a dtype of {WIDER}"
        return f"{self.dtype} reaches 3e38, so the weights themselves are at fault: fetch the model again"


class Found(Exception):
    """Ends the drawing."""

    def __init__(self, overflow: Overflow) -> None:
        self.overflow = overflow


def find_overflow(pipeline: StableDiffusionPipeline, prompt: str, seed: int, recipe: Recipe) -> Overflow | None:
    """Draws one image by diffusers' own pipeline and looks at every module's output; None where all is finite.

    It draws exactly, whatever approximation the recipe has.
    """
    pipeline.scheduler = SCHEDULERS[recipe.scheduler].from_config(pipeline.scheduler.config)
    watch = Watch(str(pipeline.unet.dtype).removeprefix("torch."))

    def after_step(_: object, step: int, timestep: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        watch.look(f"the sampler {type(pipeline.scheduler).__name__}", tensors["latents"])
        return tensors

    with watch.over(pipeline):
        try:
            pipeline(
                prompt,
                generator=torch.Generator("cpu").manual_seed(seed),
                guidance_scale=recipe.guidance,
                num_inference_steps=recipe.steps,
                width=recipe.width,
                height=recipe.height,
                output_type="np",
                callback_on_step_end=after_step,
            )
        except Found as found:
            return found.overflow
    return None


class Watch:
    """Raises Found at the first output that is not finite."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._evaluation = 0
        self._largest = 0.0

    @contextmanager
    def over(self, pipeline: StableDiffusionPipeline) -> Iterator[None]:
        handles = [pipeline.unet.register_forward_pre_hook(self._begin)]
        for part in ("text_encoder", "unet", "vae"):
            for name, module in getattr(pipeline, part).named_modules(prefix=part):
                handles.append(module.register_forward_hook(self._hook(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def look(self, place: str, output: Tensor) -> None:
        magnitudes = output.detach().abs().float()
        is_finite = magnitudes.isfinite()
        if not is_finite.all():
            raise Found(Overflow(place, self._evaluation, self._largest, self._dtype))
        self._largest = max(self._largest, float(magnitudes.max()))

    def _begin(self, *_: object) -> None:
        self._evaluation += 1
        self._largest = 0.0

    def _hook(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, inputs: object, output: object) -> None:
            for tensor in tensors_in(output):
                self.look(name, tensor)

        return hook


def tensors_in(output: object) -> Iterator[Tensor]:
    """Of floating point, in what a module of diffusers or transformers returns."""
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.numel():
            yield output
    elif isinstance(output, dict):
        yield from tensors_in(tuple(output.values()))
    elif isinstance(output, tuple | list):
        for part in output:
            yield from tensors_in(part)
