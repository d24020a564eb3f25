"""What the GPU's benchmark draws, and how much of everything."""

from typing import NamedTuple

import torch

from shared.prompts import PromptSpec
from shared.specs import Recipe, SchedulerName

# No two are alike, as in a batch that spans shards of several classes.
PROMPTS = (
    "tench, freshwater food fish native to Europe",
    "goldfish, small golden or orange-red freshwater fishes of Eurasia",
    "great grey owl, large dish-faced owl of northern North America",
    "tree frog, arboreal amphibians usually having adhesive disks at the tip of each toe",
    "Komodo dragon, the largest lizard in the world, inside forest path",
    "trilobite, an extinct arthropod that was abundant in Paleozoic times",
    "jellyfish, large siphonophore having a bladderlike float",
    "Pembroke, the smaller and straight-legged variety of corgi having pointed ears",
    "red fox, the common Old World fox, inside snowfield",
    "zebra, any of several fleet black-and-white striped African equines",
    "airship, a steerable self-propelled aircraft",
    "lighthouse, a tower with a light that gives warning of shoals to passing ships",
    "teapot, pot for brewing tea, inside kitchen",
)


def recipe(*, scheduler: SchedulerName, steps: int, guidance: float, side: int) -> Recipe:
    prompt = PromptSpec(kind="description")
    return Recipe(
        model_digest="sha256:bench",
        scheduler=scheduler,
        steps=steps,
        guidance=guidance,
        width=side,
        height=side,
        prompt=prompt,
        seed=0,
    )


class Plan(NamedTuple):
    """`ours` None: the batch that the worker would choose. `compared` images are drawn in `exact` precision, too."""

    is_tiny: bool
    device: torch.device
    half: torch.dtype
    exact: torch.dtype
    recipe: Recipe
    sweep: tuple[int, ...]
    sweep_steps: int
    ours: int | None
    rounds: int
    batches: int
    whole_batches: int
    compared: int
    copy_bytes: int
    backend: str
    limit_seconds: float


# 32 images are one too many for diffusers' VAE: 2^31 elements after its last upsampling, github.com/huggingface/
# diffusers/issues/984.
FULL = Plan(
    is_tiny=False,
    device=torch.device("cuda"),
    half=torch.float16,
    exact=torch.float32,
    recipe=recipe(scheduler="pndm", steps=50, guidance=7.5, side=512),
    sweep=(1, 4, 8, 16, 31),
    sweep_steps=10,
    ours=None,
    rounds=3,
    batches=2,
    whole_batches=4,
    compared=4,
    copy_bytes=4 * 2**30,
    backend="inductor",
    limit_seconds=540,
)
TINY = FULL._replace(
    is_tiny=True,
    device=torch.device("cpu"),
    half=torch.float32,
    exact=torch.float64,
    recipe=recipe(scheduler="pndm", steps=3, guidance=7.5, side=128),
    sweep=(1, 2),
    sweep_steps=1,
    ours=3,
    rounds=2,
    batches=1,
    whole_batches=2,
    compared=1,
    copy_bytes=2**20,
    backend="eager",
)


class Batch(NamedTuple):
    prompts: list[str]
    seeds: list[int]


def batch(size: int, *, first: int = 0) -> Batch:
    """The prompts and seeds of images `first` and on: the same ones whatever the size of a batch."""
    numbers = range(first, first + size)
    return Batch([PROMPTS[number % len(PROMPTS)] for number in numbers], list(numbers))
