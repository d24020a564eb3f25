"""How networks are trained: recipes are data, stored with every result (sources: docs/protocols.md)."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from .errors import Rejected
from .frozen import Frozen

Optimizer = Literal["sgd", "adamw"]
MOST_PARTS = 1024
ARCHITECTURE = re.compile(r"[a-zA-Z0-9_.]+")


class CropRecipe(Frozen):
    """`count` random square crops of each image, every one drawn anew: position, colour, blur.

    `scale` is the crop's share of the image's area and `aspect` its width by its height (Szegedy et al. 2015, section
    6); `jitter` the strengths of brightness, contrast, saturation and hue; `blur_radius` in pixels; the rest are
    probabilities.
    """

    size: int = Field(ge=16, le=1024)
    count: int = Field(ge=1, le=32)
    scale: tuple[float, float] = (0.25, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = Field(0.5, ge=0, le=1)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_probability: float = Field(0.8, ge=0, le=1)
    grayscale: float = Field(0.2, ge=0, le=1)
    blur: float = Field(0.0, ge=0, le=1)
    blur_radius: tuple[float, float] = (0.1, 2.0)
    solarise: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def check_ranges(self) -> Self:
        for name in ("scale", "aspect", "blur_radius"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} {low}..{high} is no range of positive numbers")
        if self.scale[1] > 1:
            raise ValueError(f"scale {self.scale[1]} is more than the image")
        return self


class TrainingRecipe(Frozen):
    """Everything that shapes a training but its data, its length in steps and its seed.

    `crops` is empty for the plain augmentation: one crop of the whole image, moved or rescaled a little.
    `learning_rate` is that of `learning_rate_batch` images per step and grows with the batch (Goyal et al. 2017);
    without a `learning_rate_batch` it is taken as it is. `temperature` divides cosine logits; 0 or less means a plain
    linear head. `ema_decay` 0 keeps no average of the weights. `accumulate` is in how many parts, one after the other,
    each batch goes through the network, for batches that do not fit at once: the gradients are those of the whole
    batch but for rounding, while batch normalisation sees the images of a part alone. `compile` lets torch.compile fuse
    the network's operations, which rounds differently.
    """

    name: str
    batch_size: int = Field(ge=1, le=65_536)
    epochs: int = Field(ge=1, le=100_000)
    crops: tuple[CropRecipe, ...]
    flip: bool
    optimizer: Optimizer
    momentum: float = Field(ge=0, lt=1)
    learning_rate: float = Field(gt=0, le=1000)
    learning_rate_batch: int | None = Field(ge=1)
    final_learning_rate: float = Field(ge=0)
    weight_decay: float = Field(ge=0, le=10)
    warmup_steps: int = Field(ge=0)
    warmup_epochs: float = Field(ge=0)
    temperature: float
    label_smoothing: float = Field(ge=0, lt=1)
    ema_decay: float = Field(ge=0, lt=1)
    precision: Literal["auto", "float32"]
    accumulate: int = Field(1, ge=1, le=MOST_PARTS)
    compile: bool = False

    @property
    def peak_learning_rate(self) -> float:
        if self.learning_rate_batch is None:
            return self.learning_rate
        return self.learning_rate * self.batch_size / self.learning_rate_batch


PLAIN = TrainingRecipe(
    name="plain",
    batch_size=64,
    epochs=100,
    crops=(),
    flip=True,
    optimizer="sgd",
    momentum=0.9,
    learning_rate=0.1,
    learning_rate_batch=None,
    final_learning_rate=1e-6,
    weight_decay=1e-4,
    warmup_steps=0,
    warmup_epochs=0,
    temperature=0,
    label_smoothing=0,
    ema_decay=0,
    precision="auto",
)
# Sariyildiz et al. 2023, section 4, as far as it is published; the rest are our defaults.
IMAGENET_SD = PLAIN.model_copy(
    update={
        "name": "imagenet-sd",
        "batch_size": 1024,
        "crops": (
            CropRecipe(size=224, count=1, scale=(0.25, 1.0), blur=0.2, solarise=0.2),
            CropRecipe(size=96, count=8, scale=(0.05, 0.25), blur=0.5),
        ),
        "learning_rate_batch": 256,
        "warmup_epochs": 10,
        "temperature": 0.1,
    }
)
RECIPES = {recipe.name: recipe for recipe in (PLAIN, IMAGENET_SD)}


def check_architecture_name(name: str) -> None:
    """By its form only: which names there are only timm knows, which the trainers have."""
    if not ARCHITECTURE.fullmatch(name):
        raise Rejected(f"architecture {name!r} is no timm name such as resnet50", pointer="/architecture")


def find_recipe(name: str) -> TrainingRecipe:
    if name not in RECIPES:
        raise Rejected(f"unknown recipe {name[:50]!r}; known: {', '.join(RECIPES)}", pointer="/recipe")
    return RECIPES[name]
