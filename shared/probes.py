"""Probes: what a small fixed network learns from the first images of a dataset, and what that says of all of them."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from .frozen import Frozen
from .recipes import PLAIN, TrainingRecipe

# A line through two sizes would fit any two errors.
LEAST_SHARES = 3
ARCHITECTURE = "test_resnet"
MOST_SIDE = 64  # pixels
# The same number of steps for every share: what differs along the curve is the data, not the length of the training.
EPOCHS = 10  # of the whole dataset
LEAST_STEPS, MOST_STEPS = 300, 20_000
WARMUP_PART = 20
RECIPE = PLAIN.model_copy(
    update={
        "name": "probe",
        "epochs": EPOCHS,
        "flip": False,  # a mirrored 2 is no digit
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 0.05,
        "precision": "float32",
    }
)


class ProbeRequest(Frozen):
    """Predict what a dataset is worth from its first images, before all of it is drawn."""

    dataset: str = Field(max_length=100, description="Id of a dataset, which need not be finished.")
    benchmark: str = Field(max_length=100, description="A registered test set, such as digits.")
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.01, 0.05, 0.1),
        min_length=LEAST_SHARES,
        max_length=10,
        description="Of each class's images, the first ones; the probe runs once the largest share is drawn.",
    )
    repeats: int = Field(3, ge=1, le=20, description="Networks for each share, which differ in their seed.")
    seed: int = Field(0, ge=0, lt=2**63)
    priority: int = Field(0, ge=0, le=9)

    @model_validator(mode="after")
    def check_shares(self) -> Self:
        if len(set(self.shares)) != len(self.shares):
            raise ValueError(f"shares {list(self.shares)} name one share twice; give repeats for more networks")
        return self


class ProbeSpec(Frozen):
    """The network and its recipe are frozen here, so that a later version's change no result.

    `images` are those of the whole dataset, `sizes` those that the shares ask for.
    """

    request: ProbeRequest
    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    images: int
    sizes: tuple[int, ...]
    architecture: str
    image_size: int
    steps: int
    recipe: TrainingRecipe
    version: str


def images_of(total: int, share: float) -> int:
    """How many of a class's first slots a dataset of this share would have."""
    return int(total * share + 0.5)


def size_of(totals: Mapping[str, int], share: float) -> int:
    return sum(images_of(total, share) for total in totals.values())


def steps_for(images: int) -> int:
    """By the size of the whole dataset, so that a network of all images would be trained as long as those of a few."""
    return min(max(EPOCHS * images // RECIPE.batch_size, LEAST_STEPS), MOST_STEPS)


def recipe_for(steps: int) -> TrainingRecipe:
    return RECIPE.model_copy(update={"warmup_steps": steps // WARMUP_PART})
