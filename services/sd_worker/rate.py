"""How fast this machine draws: a model's engine fed as a worker does it, beside the rate of the device's arithmetic."""

import time
from collections.abc import Iterator
from itertools import count, islice

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import ConfigurationError
from shared.models import ModelEntry, find_model, verify_weights
from shared.prompts import PromptSpec
from shared.settings import Settings
from shared.specs import Recipe

from .batches import MOST_DRAWING, Generator
from .drawn import Pending
from .engine.kernels import device_name, versions
from .flops import image_flop, matmul_rate
from .generators import load_generator
from .machine import Machine, machine_of
from .pipeline import torch_dtype

BATCHES = 3
GUIDANCE = 7.5
PROMPTS = ("zero", "one", "two", "three")
# By the arithmetic alone; what a person waits for.
LONGEST_SECONDS = 900


class Rate(BaseModel):
    """`utilisation` is the share of the rate of matrix products that the images' plain arithmetic would take."""

    model_config = ConfigDict(frozen=True)

    model: str
    device: str
    dtype: str
    versions: dict[str, str]
    scheduler: str
    steps: int
    guidance: float
    width: int
    height: int
    batch: int
    images: int
    load_seconds: float
    warm_up_seconds: float = Field(description="Of the first batch, with whatever had to be compiled.")
    images_per_second: float
    teraflop_per_image: float
    matmul_teraflop_per_second: float
    utilisation: float

    @property
    def text(self) -> str:
        return (
            f"{self.images_per_second:g} images/s of {self.model} on {self.device} in {self.dtype}, {self.width} x "
            f"{self.height}, {self.scheduler} {self.steps} steps, guidance {self.guidance:g}, batches of {self.batch}; "
            f"{self.teraflop_per_image:g} TFLOP an image, matrix products {self.matmul_teraflop_per_second:g} TFLOP/s: "
            f"{100 * self.utilisation:.1f} % used; loaded in {self.load_seconds:g} s, first batch "
            f"{self.warm_up_seconds:g} s"
        )


def measure_rate(settings: Settings, model: str | None = None) -> Rate:
    """With the recipe of the model's card. Raises AppError."""
    entry = find_model(settings, model or settings.default_model)
    verify_weights(settings, entry)
    folder, recipe = entry.path(settings), card_recipe(entry)
    machine = machine_of(settings)._replace(dtype=entry.dtype)
    began = time.perf_counter()
    generator = load_generator(folder, machine)
    loaded = time.perf_counter()
    dtype = torch_dtype(machine.device, machine.dtype)
    flop, products = image_flop(folder, recipe), matmul_rate(machine.device, dtype)
    refuse_endless(entry, machine, seconds=(BATCHES + 1) * machine.batch * flop / products)
    warm_up = seconds_of(generator, machine, recipe, batches=1)
    speed = BATCHES * machine.batch / seconds_of(generator, machine, recipe, batches=BATCHES)
    return Rate(
        model=entry.name,
        device=device_name(machine.device),
        dtype=str(dtype).removeprefix("torch."),
        versions=versions(),
        scheduler=recipe.scheduler,
        steps=recipe.steps,
        guidance=recipe.guidance,
        width=recipe.width,
        height=recipe.height,
        batch=machine.batch,
        images=BATCHES * machine.batch,
        load_seconds=round(loaded - began, 2),
        warm_up_seconds=round(warm_up, 2),
        images_per_second=round(speed, 3),
        teraflop_per_image=round(flop / 1e12, 5),
        matmul_teraflop_per_second=round(products / 1e12, 4),
        utilisation=round(speed * flop / products, 4),
    )


def card_recipe(entry: ModelEntry) -> Recipe:
    return Recipe(
        model_digest=entry.digest,
        scheduler=entry.scheduler,
        steps=entry.steps,
        guidance=GUIDANCE,
        width=entry.image_size,
        height=entry.image_size,
        prompt=PromptSpec(kind="name"),
        seed=0,
    )


def refuse_endless(entry: ModelEntry, machine: Machine, *, seconds: float) -> None:
    if seconds > LONGEST_SECONDS:
        raise ConfigurationError(
            f"{BATCHES + 1} batches of {machine.batch} images of {entry.name!r} take {seconds / 60:.0f} minutes or "
            f"more on {device_name(machine.device)}; use a GPU, a smaller SYNTHCLONE_BATCH_SIZE or another --model"
        )


def seconds_of(generator: Generator, machine: Machine, recipe: Recipe, *, batches: int) -> float:
    """The next batch is started before the last one is waited for, as in a worker."""
    began = time.perf_counter()
    under_way: list[Pending] = []
    for seeds in islice(seeds_of_batches(machine.batch), batches):
        prompts = [PROMPTS[seed % len(PROMPTS)] for seed in seeds]
        under_way.append(generator.start(prompts, seeds, recipe))
        if len(under_way) == MOST_DRAWING:
            under_way.pop(0).wait()
    for pending in under_way:
        pending.wait()
    return time.perf_counter() - began


def seeds_of_batches(batch: int) -> Iterator[list[int]]:
    return (list(range(first, first + batch)) for first in count(0, batch))
