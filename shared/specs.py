"""What users ask for (requests) and what is frozen when a job is created (specs and the recipe)."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, FailFast, Field, TypeAdapter, ValidationInfo, model_validator

from . import seeds
from .approximations import Approximation, AskedApproximation
from .classes import ClassSelection
from .errors import Rejected
from .frozen import Frozen
from .prompts import PROMPTS_VERSION, PromptField, PromptSpec
from .recipes import MOST_PARTS, CropRecipe, Optimizer, TrainingRecipe, find_recipe

SchedulerName = Literal["pndm", "dpm++", "ddim", "euler"]
SHARDS_VERSION = 1
JPEG_QUALITY = 95
# Beyond this a request is a slip of the keyboard; the total is limited again by Settings.max_images.
MOST_IMAGES_PER_CLASS = 1_000_000
MOST_STEPS = 10_000_000
LATENT_PIXELS = 8  # along a side of an image, for each latent
MOST_PIXELS = 1024  # along a side; Stable Diffusion 1 was trained at 512 and repeats things far beyond that
# One fault is told, not one for each of the hundreds of thousands of items that fit into a body.
Names = Annotated[tuple[Annotated[str, Field(max_length=100)], ...], FailFast()]


def check_size(value: str) -> str:
    number = value.removesuffix("x")
    if not (value.endswith("x") and number.isascii() and number.isdigit() and 1 <= int(number) <= 1000):
        raise ValueError(f"size {value!r} is not a whole multiple from '1x' to '1000x', such as '10x'")
    return f"{int(number)}x"


def check_side(value: int, info: ValidationInfo) -> int:
    if excess := value % LATENT_PIXELS:
        smaller, larger = value - excess, value - excess + LATENT_PIXELS
        raise ValueError(f"{info.field_name} {value} is not a multiple of {LATENT_PIXELS}; take {smaller} or {larger}")
    return value


Side = Annotated[int, Field(ge=LATENT_PIXELS, le=MOST_PIXELS), AfterValidator(check_side)]
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
    width: Side | None = Field(None, description="Pixels, a multiple of 8, best of 64; default: the model card's.")
    height: Side | None = Field(None, description="As width.")
    approximation: AskedApproximation | None = Field(
        None, description="Draw sooner and differently; default: exactly. Such images are never mixed with exact ones."
    )
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
    engine: Literal["exact"] | Approximation = "exact"

    @property
    def approximation(self) -> Approximation | None:
        return None if self.engine == "exact" else self.engine

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


# Of a recipe, by these fields of a request.
CHANGEABLE = (
    *("epochs", "batch_size", "crops", "optimizer", "learning_rate", "weight_decay", "warmup_steps"),
    *("temperature", "label_smoothing", "ema_decay", "flip", "accumulate", "compile"),
)


def name_sources(datasets: Sequence[str], real: str | None, shares: Sequence[float] | None) -> str:
    """What a training learns from, each with its share where shares are given: "0.9 ds-... + 0.1 digits-train"."""
    names = (*datasets, *([real] if real is not None else []))
    if shares is None:
        return ", ".join(names)
    return " + ".join(f"{share:g} {name}" for share, name in zip(shares, names, strict=True))


class TrainingRequest(Frozen):
    """Train one network on datasets of ours, on one registered real training set, or on a mixture of them."""

    datasets: Names = Field((), max_length=50, description="Dataset ids; their classes must agree.")
    real: str | None = Field(None, max_length=100, description="A registered real training set, such as digits-train.")
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, max_length=51, description="Of each epoch, for every dataset and then the real set; they add up to 1."
    )
    architecture: str = Field("resnet50", max_length=100, description="Any timm architecture by name.")
    recipe: str = Field("plain", max_length=50, description="plain or imagenet-sd; the fields below change it.")
    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="Optimizer steps.")
    epochs: int | None = Field(None, ge=1, le=100_000, description="Used when steps is not given.")
    batch_size: int | None = Field(None, ge=1, le=65_536)
    image_size: int | None = Field(None, ge=16, le=1024, description="Default: the training images' own size.")
    crops: tuple[CropRecipe, ...] | None = Field(None, max_length=8, description="Multi-crop: global crops first.")
    optimizer: Optimizer | None = None
    learning_rate: float | None = Field(None, gt=0, le=1000, description="As it is, whatever the batch.")
    weight_decay: float | None = Field(None, ge=0, le=10)
    warmup_steps: int | None = Field(None, ge=0, le=MOST_STEPS)
    temperature: float | None = Field(None, le=100, description="Of cosine logits; 0 or less: a linear head.")
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    ema_decay: float | None = Field(None, ge=0, lt=1)
    flip: bool | None = Field(None, description="Random horizontal flip; wrong for digits and letters.")
    accumulate: int | None = Field(
        None, ge=1, le=MOST_PARTS, description="Parts of each batch, computed in turn, for batches beyond the memory."
    )
    compile: bool | None = Field(None, description="Compile the network: faster after minutes, rounds differently.")
    seed: int = Field(0, ge=0, lt=2**63)
    checkpoint_steps: int = Field(500, ge=1, le=MOST_STEPS)
    priority: int = Field(0, ge=0, le=9)

    @model_validator(mode="after")
    def check_source(self) -> Self:
        sources = len(self.datasets) + (self.real is not None)
        if not sources:
            raise ValueError("give datasets, real, or both with shares")
        if self.datasets and self.real is not None and self.shares is None:
            raise ValueError("datasets and real are mixed by shares, such as [0.9, 0.1]; give them")
        if self.shares is not None and (len(self.shares) != sources or abs(sum(self.shares) - 1) > 1e-6):
            raise ValueError(f"shares {list(self.shares)} are not {sources} numbers that add up to 1")
        if len(set(self.datasets)) != len(self.datasets):
            raise ValueError("datasets names the same dataset twice")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self

    def resolved_recipe(self) -> TrainingRecipe:
        """The named recipe with this request's changes. Raises Rejected for an unknown name."""
        changes = {name: getattr(self, name) for name in CHANGEABLE if getattr(self, name) is not None}
        recipe = find_recipe(self.recipe).model_copy(update=changes)
        if self.learning_rate is not None:
            recipe = recipe.model_copy(update={"learning_rate_batch": None})
        if self.warmup_steps is not None:
            recipe = recipe.model_copy(update={"warmup_epochs": 0.0})
        if self.flip is False:
            crops = tuple(crop.model_copy(update={"flip": 0.0}) for crop in recipe.crops)
            recipe = recipe.model_copy(update={"crops": crops})
        if recipe.batch_size % recipe.accumulate:
            raise Rejected(
                f"batch_size {recipe.batch_size} has no {recipe.accumulate} equal parts; give an accumulate that "
                "divides it",
                pointer="/accumulate",
            )
        if recipe.crops and self.image_size is not None:
            raise Rejected(
                "image_size is for recipes without crops; give crops with their sizes", pointer="/image_size"
            )
        return recipe


class TrainingSpec(Frozen):
    """`recipe` is frozen here, so that a later version's recipe of the same name changes no result."""

    request: TrainingRequest
    recipe: TrainingRecipe
    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    version: str

    @model_validator(mode="before")
    @classmethod
    def find_recipe_of_old_rows(cls, values: object) -> object:
        """Rows of before there were recipes say everything in their request."""
        if isinstance(values, dict) and "request" in values and "recipe" not in values:
            request = TrainingRequest.model_validate(values["request"])
            return {**values, "recipe": request.resolved_recipe()}
        return values


class ImportedSpec(Frozen):
    """A network that was trained elsewhere, of which nothing but this is known; `sha256` is that of its file."""

    imported: str = Field(description="What the operator calls it, or where it comes from.")
    architecture: str
    image_size: int
    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    sha256: str
    version: str


TrainedSpec = TrainingSpec | ImportedSpec
TRAINED_SPEC: TypeAdapter[TrainedSpec] = TypeAdapter(TrainedSpec)


class DistanceRequest(Frozen):
    """How near a dataset's images are to a registered real set, in the features of the evaluated encoder."""

    dataset: str = Field(max_length=100, description="Id of a dataset whose images are compared.")
    real: str = Field(max_length=100, description="A registered training or test set.")
    images: int = Field(
        5000, ge=10, le=100_000, description="Drawn of each set; figures of different numbers do not compare."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of the draw.")


class EvaluationRequest(Frozen):
    training: str = Field(max_length=100, description="Id of the training whose encoder is tested.")
    benchmarks: Names = Field(
        ("digits",), max_length=50, description="Registered test sets; none where only something else is asked for."
    )
    transfer: Names = Field((), max_length=50, description="Registered transfer sets, for linear classifiers.")
    transfer_seeds: int = Field(3, ge=1, le=20, description="Times that each linear classifier is tuned and fitted.")
    neighbours: int | None = Field(
        None, ge=1, le=1000, description="Classify the transfer sets by this many nearest training images too."
    )
    distances: tuple[DistanceRequest, ...] = Field(
        (), max_length=20, description="Datasets compared with real sets by their features."
    )
    compare_with: Names = Field(
        (), max_length=10, description="Evaluations on the same test sets, compared with this one image by image."
    )
    priority: int = Field(0, ge=0, le=9)

    @model_validator(mode="before")
    @classmethod
    def leave_out_benchmarks(cls, values: object) -> object:
        """A network that never saw a digit may be tested in other ways alone."""
        if (
            isinstance(values, dict)
            and "benchmarks" not in values
            and (values.get("transfer") or values.get("distances"))
        ):
            return {**values, "benchmarks": ()}
        return values

    @model_validator(mode="after")
    def check_sets(self) -> Self:
        if not (self.benchmarks or self.transfer or self.distances):
            raise ValueError("give benchmarks, transfer or distances; all are empty")
        pairs = tuple(f"{each.dataset}={each.real}" for each in self.distances)
        other = "; another seed or number of images needs an evaluation of its own"
        for names, remedy in ((self.benchmarks, ""), (self.transfer, ""), (pairs, other), (self.compare_with, "")):
            for position, name in enumerate(names):
                if name in names[:position]:
                    raise ValueError(f"{name} is named twice{remedy}")
        if self.neighbours is not None and not self.transfer:
            raise ValueError("neighbours classify transfer sets; give transfer too")
        if self.compare_with and not self.benchmarks:
            raise ValueError("compare_with pairs images of benchmarks; give benchmarks too")
        return self

    @property
    def parts(self) -> int:
        """What progress counts."""
        return len(self.benchmarks) + len(self.transfer) + len(self.distances)


class EvaluationSpec(Frozen):
    request: EvaluationRequest
    version: str
