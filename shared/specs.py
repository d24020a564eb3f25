"""What users ask for (requests) and what is frozen when a job is created (specs and the recipe)."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, FailFast, Field, model_validator

from . import seeds
from .classes import ClassSelection
from .prompts import PROMPTS_VERSION, PromptField, PromptSpec

SchedulerName = Literal["pndm", "dpm++", "ddim", "euler"]
SHARDS_VERSION = 1
JPEG_QUALITY = 95
# Beyond this a request is a slip of the keyboard; the total is limited again by Settings.max_images.
MOST_IMAGES_PER_CLASS = 1_000_000
MOST_STEPS = 10_000_000
# One fault is told, not one for each of the hundreds of thousands of items that fit into a body.
Names = Annotated[tuple[Annotated[str, Field(max_length=100)], ...], FailFast()]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_size(value: str) -> str:
    number = value.removesuffix("x")
    if not (value.endswith("x") and number.isascii() and number.isdigit() and 1 <= int(number) <= 1000):
        raise ValueError(f"size {value!r} is not a whole multiple from '1x' to '1000x', such as '10x'")
    return f"{int(number)}x"


Size = Annotated[str, Field(max_length=8), AfterValidator(check_size)]


class Budget(Frozen):
    """A dataset that reaches either stops with equally many images of every class."""

    images: int | None = Field(None, ge=1, description="Most images newly drawn; reused ones are free.")
    worker_seconds: float | None = Field(None, gt=0, description="Time of generating workers after which it stops.")

    @model_validator(mode="after")
    def check_limits(self) -> Self:
        if self.images is None and self.worker_seconds is None:
            raise ValueError("give images, worker_seconds or both")
        return self


class DatasetRequest(Frozen):
    """`scale` is the guidance scale of the paper's figures; `size` or `images_per_class` says how many images."""

    classes: ClassSelection = Field(description="in1k, in100, digits, a list of WordNet ids, or named classes.")
    prompt: PromptField = Field(
        PromptSpec(kind="name"),
        description="Strategy name, or {'template': '...'}.",
        json_schema_extra={"default": "name"},  # as users write it
    )
    scale: float = Field(7.5, ge=0, le=50, description="Classifier-free guidance scale; 2.0 was the paper's best.")
    size: Size | None = Field(None, description="Multiple of the real data set's per-class counts, such as '10x'.")
    images_per_class: int | None = Field(None, ge=1, le=MOST_IMAGES_PER_CLASS)
    model: str | None = Field(None, max_length=100, description="A registered model; default: the server's.")
    scheduler: SchedulerName | None = Field(None, description="Default: the model card's.")
    steps: int | None = Field(None, ge=1, le=1000, description="Sampler steps; default: the model card's.")
    seed: int = Field(0, ge=0, lt=2**63)
    priority: int = Field(0, ge=0, le=9, description="9 is drawn first within a team.")
    deadline: AwareDatetime | None = Field(None, description="When to stop with what is drawn by then, balanced.")
    budget: Budget | None = Field(None, description="How much may be spent before it stops, balanced.")

    @model_validator(mode="after")
    def check_amount(self) -> Self:
        if self.size is not None and self.images_per_class is not None:
            raise ValueError("give size or images_per_class, not both")
        return self


class GateSpec(Frozen):
    """Absolute thresholds on one image; a rejected slot is drawn again with the next attempt's seed."""

    min_std: float = 2.0
    min_mean: float = 1.0
    max_attempts: int = 5


class Recipe(Frozen):
    """Everything that decides a pixel. Two datasets with the same digest share their images."""

    model_digest: str
    scheduler: SchedulerName
    steps: int
    guidance: float
    width: int
    height: int
    prompt: PromptSpec
    prompts_version: int = PROMPTS_VERSION
    shards_version: int = SHARDS_VERSION
    seed: int
    gate: GateSpec = GateSpec()
    jpeg_quality: int = JPEG_QUALITY
    engine: Literal["exact"] = "exact"

    @property
    def digest(self) -> str:
        return seeds.digest(self.model_dump(mode="json"))


class DatasetSpec(Frozen):
    """A dataset job, frozen: the class texts stand in the job's class rows."""

    request: DatasetRequest
    model: str
    recipe: Recipe
    recipe_digest: str
    lexicon_digest: str
    class_count: int
    images_per_class: tuple[int, int] = Field(description="Smallest and largest number over the classes.")
    total_images: int
    version: str


Optimizer = Literal["sgd", "adamw"]


class TrainingRequest(Frozen):
    """Train one network on datasets of ours, or on one registered real training set."""

    datasets: Names = Field((), max_length=50, description="Dataset ids; their classes must agree.")
    real: str | None = Field(None, max_length=100, description="A registered real training set, such as digits-train.")
    architecture: str = Field("resnet50", max_length=100, description="Any timm architecture by name.")
    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="Optimizer steps.")
    epochs: int | None = Field(None, ge=1, le=100_000, description="Used when steps is not given; default 100.")
    batch_size: int = Field(64, ge=1, le=65_536)
    image_size: int | None = Field(None, ge=16, le=1024, description="Default: the training images' own size.")
    optimizer: Optimizer = "sgd"
    learning_rate: float = Field(0.1, gt=0, le=1000)
    weight_decay: float = Field(1e-4, ge=0, le=10)
    warmup_steps: int = Field(0, ge=0, le=MOST_STEPS)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    flip: bool = Field(True, description="Random horizontal flip; wrong for digits and letters.")
    seed: int = Field(0, ge=0, lt=2**63)
    checkpoint_steps: int = Field(500, ge=1, le=MOST_STEPS)
    priority: int = Field(0, ge=0, le=9)

    @model_validator(mode="after")
    def check_source(self) -> Self:
        if bool(self.datasets) == (self.real is not None):
            raise ValueError("give either datasets or real")
        if len(set(self.datasets)) != len(self.datasets):
            raise ValueError("datasets names the same dataset twice")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self


class TrainingSpec(Frozen):
    request: TrainingRequest
    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    version: str


class EvaluationRequest(Frozen):
    training: str = Field(max_length=100, description="Id of the training whose encoder is tested.")
    benchmarks: Names = Field(("digits",), min_length=1, max_length=50)
    priority: int = Field(0, ge=0, le=9)


class EvaluationSpec(Frozen):
    request: EvaluationRequest
    version: str
