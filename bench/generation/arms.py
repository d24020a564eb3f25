"""What is compared: A, diffusers' pipeline untouched; A', the same compiled as its users do; B, the worker."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from services.sd_worker.drawn import Pending
from services.sd_worker.encoding import Encoded, Encoders
from services.sd_worker.engine.memory import decoded_at_once
from services.sd_worker.engine.schedule import Schedule
from services.sd_worker.engine.trajectory import decoded, make_table, trajectory
from services.sd_worker.generators import Engine, load_generator
from services.sd_worker.machine import Machine
from services.sd_worker.pipeline import load_pipeline
from shared.specs import Recipe

from .plan import Batch, Plan

Images = list[Image.Image] | list[NDArray[np.uint8]]  # either becomes pixels by np.asarray


class Arm(Protocol):
    name: str
    batch: int

    def draw(self, batches: Sequence[Batch]) -> Images:
        """Images of these prompts and seeds; what is timed."""

    def outputs(self, noise: Tensor, timestep: Tensor, texts: Tensor, empty: Tensor) -> Tensor:
        """Of one evaluation of the network: (2 N, 4, h, w), without text and then with, for noise (N, 4, h, w)."""


class Plain:
    """A, or A' with a pipeline that `compile_as_usual` changed. A batch ends as PIL images."""

    def __init__(self, name: str, batch: int, pipeline: StableDiffusionPipeline, recipe: Recipe) -> None:
        self.name, self.batch = name, batch
        self.pipeline = pipeline
        self._recipe = recipe

    def draw(self, batches: Sequence[Batch]) -> list[Image.Image]:
        return [image for batch in batches for image in self.images(batch, self._recipe.steps)]

    def images(self, batch: Batch, steps: int) -> list[Image.Image]:
        with library_defaults():
            found: list[Image.Image] = self.pipeline(
                batch.prompts,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in batch.seeds],
                num_inference_steps=steps,
                guidance_scale=self._recipe.guidance,
                width=self._recipe.width,
                height=self._recipe.height,
            ).images
        return found

    @torch.no_grad()  # as in the pipeline
    def outputs(self, noise: Tensor, timestep: Tensor, texts: Tensor, empty: Tensor) -> Tensor:
        both = torch.cat([empty.expand_as(texts), texts])
        with library_defaults():
            found: Tensor = self.pipeline.unet(
                torch.cat([noise, noise]),
                timestep,
                # As the pipeline calls it, so that a compiled network has seen the like.
                encoder_hidden_states=both,
                timestep_cond=None,
                cross_attention_kwargs=None,
                added_cond_kwargs=None,
                return_dict=False,
            )[0]
        return found


@contextmanager
def library_defaults() -> Iterator[None]:
    """The worker has cuDNN try its algorithms, for the whole process; who just calls diffusers has not."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def load_plain(folder: Path, plan: Plan) -> StableDiffusionPipeline:
    """`from_pretrained` without a safety checker, which A would only be slower with."""
    return load_pipeline(folder, plan.device)


def compile_as_usual(pipeline: StableDiffusionPipeline, backend: str) -> StableDiffusionPipeline:
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.unet.compile(fullgraph=True, backend=backend)
    return pipeline


class Ours:
    """B: the generator that a worker loads, fed and drained as a worker does. A batch ends as JPEGs."""

    def __init__(self, name: str, folder: Path, machine: Machine, recipe: Recipe) -> None:
        generator = load_generator(folder, machine)
        assert isinstance(generator, Engine), "the worker would draw these weights by diffusers' pipeline"
        self.generator = generator
        self.name, self.batch = name, machine.batch
        self._recipe = recipe
        self._encoders = Encoders()

    def draw(self, batches: Sequence[Batch]) -> list[NDArray[np.uint8]]:
        """Two batches are under way at a time: one on the device, one on its way to JPEG."""
        pixels: list[NDArray[np.uint8]] = []
        encoded: list[Future[Encoded]] = []
        waiting: list[Pending] = []
        for batch in batches:
            waiting.append(self.generator.start(batch.prompts, batch.seeds, self._recipe))
            if len(waiting) == 2:
                encoded += self._take(waiting.pop(0), pixels)
        for pending in waiting:
            encoded += self._take(pending, pixels)
        rejected = [image.result().verdict for image in encoded if not image.result().jpeg]
        assert not rejected, f"the gate let images of this model go without JPEG: {rejected[0]}"
        return pixels

    def _take(self, pending: Pending, pixels: list[NDArray[np.uint8]]) -> list[Future[Encoded]]:
        drawn = pending.wait()
        pixels += list(drawn.pixels)
        return self._encoders.start(drawn, self._recipe)

    def outputs(self, noise: Tensor, timestep: Tensor, texts: Tensor, empty: Tensor) -> Tensor:
        """By trajectories of one step that end at its output: at guidance 0 without text, at 1 with."""
        engine = self.generator
        one = Schedule(timestep[None], 1.0, (1.0,), np.array([[0.0, 1.0]]))
        table = make_table(engine.unet, one, noise.device)
        halves = [
            trajectory(engine.unet, table, noise, texts, empty, guidance=guidance, step=engine.step)
            for guidance in (0.0, 1.0)
        ]
        return torch.cat(halves)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (N, H, W, 3) of latents (N, 4, h, w), on the device."""
        engine = self.generator
        at_once = decoded_at_once(self.batch, self._recipe.height * self._recipe.width)
        return decoded(engine.vae, latents, at_once=at_once, decode=engine.decode)[0]
