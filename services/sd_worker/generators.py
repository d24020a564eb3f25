"""What draws a model's images: the engine, or diffusers' pipeline where the engine lacks the arithmetic."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from shared.errors import ConfigurationError
from shared.specs import Recipe

from .drain import fetched
from .drawn import Pending
from .engine.approximations import ApproximatedStep, Evaluations, kept, plan_evaluations, reused
from .engine.attention import PREFERRED
from .engine.choices import Timing, leave, remember, trials
from .engine.compiled import Compiled
from .engine.kernels import device_name, keep_kernels, versions
from .engine.memory import GIB, Load, decoded_at_once, free_bytes, needs_of
from .engine.schedule import NotLinear, make_schedule
from .engine.trajectory import (
    Decode,
    Step,
    Table,
    decoded,
    decoded_part,
    evaluated,
    make_table,
    take_over,
    trajectory,
    unit_noise,
)
from .engine.unet import EngineUNet, Unsupported, refuse_other
from .feed import beside
from .machine import Machine
from .pipeline import SCHEDULERS, Embeddings, Generator, load_pipeline, refuse_approximated

logger = logging.getLogger(__name__)
Value = TypeVar("Value")


class Engine:
    """A loaded model. `load_reference` is called for a recipe that the engine cannot draw, once."""

    def __init__(
        self, pipeline: StableDiffusionPipeline, load_reference: Callable[[], Generator], machine: Machine
    ) -> None:
        """Takes the pipeline over: it cannot be called itself afterwards. Raises Unsupported with nothing changed."""
        refuse_other(pipeline.unet)
        self.embeddings = Embeddings(pipeline)
        # On a CPU, too, convolutions of few channels are several times as fast in this order.
        self.unet = EngineUNet(pipeline.unet).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        take_over(pipeline.vae.decoder)
        self.vae = pipeline.vae.to(memory_format=torch.channels_last)
        self.machine = machine
        self.step: Step = evaluated
        self.keep, self.reuse = kept, reused
        self.decode: Decode = decoded_part
        if machine.backend is not None:
            # Tried out while compiling, for shapes that never change afterwards.
            torch.backends.cudnn.benchmark = True
            self.step = Compiled(evaluated, machine.backend)
            self.keep, self.reuse = Compiled(kept, machine.backend), Compiled(reused, machine.backend)
            self.decode = Compiled(decoded_part, machine.backend)
        self._name = Path(pipeline.name_or_path).name
        self._load_reference = load_reference
        self._reference: Generator | None = None
        self._sampler_config = pipeline.scheduler.config
        self._pixels = pipeline.vae_scale_factor  # along a side of a latent
        self._tables: dict[tuple[str, int], Table] = {}
        self._fitting: set[Load] = set()
        self._tried: set[Load] = set()

    def start(self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> Pending:
        """One image per prompt and seed. On a GPU it returns before they are drawn.

        Raises ConfigurationError where the machine's batch does not fit into the GPU's memory.
        """
        load = self.load(recipe)
        try:
            shape, table = self.latent_shape(recipe), self.table(recipe)
        except (NotLinear, Unsupported) as problem:
            refuse_approximated(recipe, str(problem))
            with load.explained():
                return self.reference(str(problem)).start(prompts, seeds, recipe)
        if self.machine.device.type == "cuda" and load not in self._fitting:
            load.refuse_beyond(free_bytes(self.machine.device))
            self._fitting.add(load)
        with load.explained():
            pixels, is_finite = self.draw(self.filled(prompts), self.filled(seeds), recipe, shape, table)
        return fetched(pixels[: len(prompts)], is_finite[: len(prompts)])

    def filled(self, values: Sequence[Value]) -> list[Value]:
        """As many as was compiled for: the last one again and again."""
        missing = self.machine.batch - len(values)
        if self.machine.backend is None:
            return list(values)
        if missing < 0:
            raise ValueError(f"{len(values)} images asked of an engine compiled for batches of {self.machine.batch}")
        return [*values, *[values[-1]] * missing]

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe, shape: tuple[int, int, int], table: Table
    ) -> tuple[Tensor, Tensor]:
        device, is_guided = self.machine.device, recipe.guidance > 1
        with beside(device) as feed:
            noise = feed(unit_noise(shape, seeds, device, self.unet.network.dtype))
            texts = feed(torch.stack([self.embeddings.of(prompt) for prompt in prompts]))
            empty = feed(self.embeddings.of("")) if is_guided else None
        at_once = decoded_at_once(self.machine.batch, recipe.height * recipe.width)
        if self.machine.timing is not None and self.load(recipe) not in self._tried:
            self._tried.add(self.load(recipe))
            self.try_kernels(self.machine.timing, table, noise, texts, empty, at_once=at_once)
        latents = trajectory(
            self.unet, table, noise, texts, empty, guidance=recipe.guidance, step=self.step_of(recipe, table)
        )
        return decoded(self.vae, latents, at_once=at_once, decode=self.decode)

    def try_kernels(
        self, timing: Timing, table: Table, noise: Tensor, texts: Tensor, empty: Tensor | None, *, at_once: int
    ) -> None:
        """By an evaluation and a decoding that are not compiled; what is compiled after them has what was chosen."""
        folder = keep_kernels(self.machine.kernels_dir, self.machine.device, self.machine.batch)
        remember(folder)
        first = table._replace(input_scales=table.input_scales[:1])
        with trials.opened(timing, self.machine.backend):
            latents = trajectory(self.unet, first, noise, texts, empty, guidance=1.0)
            decoded(self.vae, latents[:at_once], at_once=at_once)
        leave(folder)

    def step_of(self, recipe: Recipe, table: Table) -> Step:
        """Of one trajectory."""
        if recipe.approximation is None:
            return self.step
        plan = plan_evaluations(len(table.input_scales), recipe.approximation, has_guidance=recipe.guidance > 1)
        return ApproximatedStep(plan, Evaluations(self.step, self.keep, self.reuse))

    def load(self, recipe: Recipe) -> Load:
        size = {"height": recipe.height, "width": recipe.width}
        needs = needs_of(self.unet, self.vae, is_guided=recipe.guidance > 1, **size)
        return Load(self._name, self.machine.batch, needs=needs, **size)

    def latent_shape(self, recipe: Recipe) -> tuple[int, int, int]:
        least = self._pixels * self.unet.smallest_side
        if recipe.height % least or recipe.width % least:
            raise Unsupported(f"{recipe.width} x {recipe.height} are not multiples of {least}")
        return (self.unet.network.config.in_channels, recipe.height // self._pixels, recipe.width // self._pixels)

    def table(self, recipe: Recipe) -> Table:
        key = (recipe.scheduler, recipe.steps)
        if key not in self._tables:
            sampler = SCHEDULERS[recipe.scheduler].from_config(self._sampler_config)
            self._tables[key] = make_table(self.unet, make_schedule(sampler, recipe.steps), self.machine.device)
        return self._tables[key]

    def reference(self, reason: str) -> Generator:
        """The weights once more: the engine took its own apart."""
        if self._reference is None:
            warn(reason)
            self._reference = self._load_reference()
        return self._reference


def load_generator(folder: Path, machine: Machine) -> Engine | Generator:
    """The engine, or the reference for a network with parts that the engine does not know.

    Raises ConfigurationError where the weights are not whole or do not fit into the device's memory.
    """

    def load() -> StableDiffusionPipeline:
        try:
            return load_pipeline(folder, machine.device, machine.dtype)
        except torch.OutOfMemoryError as error:
            raise ConfigurationError(
                f"the weights of model {folder.name!r} do not fit into the GPU's memory, of which "
                f"{free_bytes(machine.device) / GIB:.1f} GiB are free; end what else uses it, or use another GPU"
            ) from error

    def load_reference() -> Generator:
        return Generator(load())

    try:
        engine = Engine(load(), load_reference, machine)
    except Unsupported as problem:
        warn(str(problem))
        return load_reference()
    kernels = None
    if machine.backend is not None:
        kernels = keep_kernels(machine.kernels_dir, machine.device, machine.batch)
    tell(folder, machine, kernels)
    return engine


def tell(folder: Path, machine: Machine, kernels: Path | None) -> None:
    on_gpu = machine.device.type == "cuda"
    logger.info(
        "engine loaded",
        extra={
            "model": folder.name,
            "device": device_name(machine.device),
            "batch": machine.batch,
            "attention": [backend.name for backend in PREFERRED] if on_gpu else "torch's choice",
            "kernels": None if kernels is None else str(kernels),
            "fused": "as measured" if machine.timing is not None else f"none: {machine.untimed}",
            **versions(),
        },
    )


def warn(reason: str) -> None:
    logger.warning("drawn by diffusers' own pipeline, which is slower", extra={"reason": reason})
