"""What draws a model's images: the engine, or diffusers' pipeline where the engine lacks the arithmetic."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from shared.specs import Recipe

from .engine.schedule import NotLinear, Schedule, make_schedule
from .engine.trajectory import decoded, fold_upsampling, trajectory, unit_noise
from .engine.unet import EngineUNet, Unsupported, refuse_other
from .pipeline import SCHEDULERS, Embeddings, Generator, load_pipeline

logger = logging.getLogger(__name__)


class Engine:
    """A loaded model. `load_reference` is called for a recipe that the engine cannot draw, once."""

    def __init__(self, pipeline: StableDiffusionPipeline, load_reference: Callable[[], Generator]) -> None:
        """Takes the pipeline over: it cannot be called itself afterwards. Raises Unsupported with nothing changed."""
        refuse_other(pipeline.unet)
        self.embeddings = Embeddings(pipeline)
        # On a CPU, too, convolutions of few channels are several times as fast in this order.
        self.unet = EngineUNet(pipeline.unet).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fold_upsampling(pipeline.vae.decoder)
        self.vae = pipeline.vae.to(memory_format=torch.channels_last)
        self.device = pipeline._execution_device
        self._load_reference = load_reference
        self._reference: Generator | None = None
        self._sampler_config = pipeline.scheduler.config
        self._pixels = pipeline.vae_scale_factor  # along a side of a latent
        self._schedules: dict[tuple[str, int], Schedule] = {}

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> NDArray[np.float32]:
        """One image per prompt and seed: (N, height, width, 3) in 0..1; NaN is passed on for the gate to see."""
        try:
            schedule, shape = self.schedule(recipe), self.latent_shape(recipe)
        except (NotLinear, Unsupported) as problem:
            return self.reference(str(problem)).draw(prompts, seeds, recipe)
        latents = trajectory(
            self.unet,
            schedule,
            unit_noise(shape, seeds, self.device, self.unet.network.dtype),
            torch.stack([self.embeddings.of(prompt) for prompt in prompts]),
            self.embeddings.of("") if recipe.guidance > 1 else None,
            guidance=recipe.guidance,
        )
        return decoded(self.vae, latents)

    def latent_shape(self, recipe: Recipe) -> tuple[int, int, int]:
        least = self._pixels * self.unet.smallest_side
        if recipe.height % least or recipe.width % least:
            raise Unsupported(f"{recipe.width} x {recipe.height} are not multiples of {least}")
        return (self.unet.network.config.in_channels, recipe.height // self._pixels, recipe.width // self._pixels)

    def schedule(self, recipe: Recipe) -> Schedule:
        key = (recipe.scheduler, recipe.steps)
        if key not in self._schedules:
            sampler = SCHEDULERS[recipe.scheduler].from_config(self._sampler_config)
            self._schedules[key] = make_schedule(sampler, recipe.steps)
        return self._schedules[key]

    def reference(self, reason: str) -> Generator:
        """The weights once more: the engine took its own apart."""
        if self._reference is None:
            warn(reason)
            self._reference = self._load_reference()
        return self._reference


def load_generator(folder: Path, device: torch.device) -> Engine | Generator:
    """The engine, or the reference for a network with parts that the engine does not know."""

    def load_reference() -> Generator:
        return Generator(load_pipeline(folder, device))

    try:
        return Engine(load_pipeline(folder, device), load_reference)
    except Unsupported as problem:
        warn(str(problem))
        return load_reference()


def warn(reason: str) -> None:
    logger.warning("drawn by diffusers' own pipeline, which is slower", extra={"reason": reason})
