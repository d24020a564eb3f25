"""Experiments: which datasets, trainings and evaluations one request stands for, worked out without any I/O."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, ClassVar, NamedTuple, Self

from pydantic import Field, model_validator

from .approximations import AskedApproximation
from .classes import ClassSelection, Name, images_at_1x, listed_wnids
from .errors import Rejected
from .frozen import Frozen
from .prompts import PromptField
from .recipes import check_architecture_name
from .specs import MOST_IMAGES_PER_CLASS, DatasetRequest, Names, Size, TrainingRequest

# One request is one transaction, so it must stay small enough for that.
MOST_DATASETS = 100
MOST_ARMS = 500
MOST_CLASS_ROWS = 100_000
MOST_COMBINATIONS = 10 * MOST_DATASETS

Scale = Annotated[float, Field(ge=0, le=50)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
# Also a part of the names of figures.
RecipeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]


class TrainingFields(TrainingRequest):
    """The fields of a training but those that the experiment chooses: its sources, seed and priority."""

    datasets: ClassVar[Names] = ()  # type: ignore[misc]  # no field any more, which mypy cannot see
    real: ClassVar[None] = None  # type: ignore[misc]
    shares: ClassVar[None] = None  # type: ignore[misc]
    seed: ClassVar[int] = 0  # type: ignore[misc]
    priority: ClassVar[int] = 0  # type: ignore[misc]

    @model_validator(mode="after")
    def check_source(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self

    def request(
        self, *, seed: int, priority: int, datasets: Sequence[str] = (), real: str | None = None
    ) -> TrainingRequest:
        fields = self.model_dump(exclude_unset=True) | {"seed": seed, "priority": priority}
        source: dict[str, object] = {"datasets": tuple(datasets)} if real is None else {"real": real}
        return TrainingRequest.model_validate(fields | source)


class Grid(Frozen):
    """Every combination of the lists is one dataset; an empty list stands for the default."""

    prompts: tuple[PromptField, ...] = Field(min_length=1, max_length=50, description="As a dataset's prompt.")
    scales: tuple[Scale, ...] = Field((7.5,), min_length=1, max_length=50, description="Guidance scales.")
    sizes: tuple[Size, ...] = Field((), max_length=50, description="Such as '1x' and '10x'; default: 1x.")
    images_per_class: tuple[Annotated[int, Field(ge=1, le=MOST_IMAGES_PER_CLASS)], ...] = Field((), max_length=50)
    models: Names = Field((), max_length=50, description="Registered models; default: the server's.")
    steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field((), max_length=50, description="Sampler steps.")
    approximations: tuple[AskedApproximation | None, ...] = Field(
        (), max_length=50, description="As a dataset's approximation; null draws exactly, as is the default."
    )

    @model_validator(mode="after")
    def check_amount(self) -> Self:
        if self.sizes and self.images_per_class:
            raise ValueError("give sizes or images_per_class, not both")
        return self

    @property
    def combinations(self) -> int:
        amounts = self.sizes or self.images_per_class
        lists = (self.prompts, self.scales, amounts, self.models, self.steps, self.approximations)
        return math.prod(max(1, len(values)) for values in lists)


class Cell(Frozen):
    """One dataset of an experiment, as its request names it; `size` or `images_per_class` is set."""

    prompt: PromptField
    scale: float
    size: str | None
    images_per_class: int | None
    model: str | None
    steps: int | None
    approximation: AskedApproximation | None = None

    @property
    def recipe(self) -> tuple[object, ...]:
        """Of cells that agree in this the smaller is the beginning of the larger."""
        return (self.prompt, self.scale, self.model, self.steps, self.approximation)

    @property
    def amount(self) -> str:
        return self.size or f"{self.images_per_class} per class"

    @property
    def prompt_words(self) -> str:
        """A template in quotes, as it may read like the name of a strategy."""
        return self.prompt.kind if self.prompt.template is None else f'"{self.prompt.template}"'

    @property
    def label(self) -> str:
        words = [self.prompt_words, f"guidance {write_scale(self.scale)}", self.amount]
        words += [self.model] if self.model else []
        words += [f"{self.steps} sampler steps"] if self.steps else []
        return ", ".join(words + ([self.approximation.label] if self.approximation else []))


def write_scale(scale: float) -> str:
    """Every digit, so that different scales stay different."""
    return str(scale).removesuffix(".0")


class ExperimentRequest(Frozen):
    """Networks trained on every dataset of some grids and on real images, all tested on the same real test sets."""

    name: Name
    classes: ClassSelection = Field(description="As a dataset's.")
    grids: tuple[Grid, ...] = Field((), max_length=20, description="Their datasets together; each is made once.")
    real: Names = Field((), max_length=20, description="Registered real training sets, to compare with.")
    training: TrainingFields | None = Field(None, description="How each network is trained.")
    trainings: dict[RecipeName, TrainingFields] = Field({}, max_length=20, description="Several ways, by names.")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, max_length=50, description="Of the trainings.")
    benchmarks: Names = Field(min_length=1, max_length=50, description="The figures show the first.")
    transfer: Names = Field((), max_length=50, description="Registered transfer sets, for linear classifiers.")
    transfer_seeds: int = Field(3, ge=1, le=20, description="As an evaluation's.")
    priority: int = Field(0, ge=0, le=9)
    budget: int | None = Field(None, ge=1, description="An experiment that would draw more images is refused.")

    @model_validator(mode="after")
    def check_parts(self) -> Self:
        if bool(self.trainings) == (self.training is not None):
            raise ValueError("give either training or trainings")
        if not self.grids and not self.real:
            raise ValueError("give grids, real or both; else there is nothing to train on")
        # Before anybody counts them one by one.
        if (combinations := sum(grid.combinations for grid in self.grids)) > MOST_COMBINATIONS:
            raise ValueError(f"grids have {combinations:,} combinations, at most {MOST_COMBINATIONS:,} are looked at")
        for field in ("seeds", "real", "benchmarks", "transfer"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ValueError(f"{field} names {next(v for v in values if values.count(v) > 1)!r} twice")
        return self

    @property
    def recipes(self) -> Mapping[str, TrainingFields]:
        return {"training": self.training} if self.training is not None else self.trainings

    @property
    def tests(self) -> Names:
        """Every set that has a table in the report."""
        return (*self.benchmarks, *self.transfer)

    def dataset(self, cell: Cell) -> DatasetRequest:
        fields: dict[str, object] = {"classes": self.classes, "prompt": cell.prompt, "scale": cell.scale}
        amount = {
            "size": cell.size,
            "images_per_class": cell.images_per_class,
            "model": cell.model,
            "steps": cell.steps,
            "approximation": cell.approximation,
        }
        fields |= {name: value for name, value in amount.items() if value is not None}
        return DatasetRequest.model_validate(fields | {"priority": self.priority})


class PlannedDataset(NamedTuple):
    """`drawn` are the images that no other dataset of the experiment draws; `grid` the position of its grid."""

    cell: Cell
    grid: int
    images: int
    drawn: int


class PlannedArm(NamedTuple):
    """One training and its evaluation; on dataset number `dataset`, or on the real set `real`."""

    dataset: int | None
    real: str | None
    recipe: str
    seed: int


class Plan(NamedTuple):
    datasets: tuple[PlannedDataset, ...]
    arms: tuple[PlannedArm, ...]
    drawn_images: int
    images_per_second: float
    gpu_hours: float


def plan(request: ExperimentRequest, *, images_per_second: float) -> Plan:
    """As if nothing had been drawn before, at a rate that the caller assumes; raises Rejected."""
    check_trainings(request)
    cells = distinct_cells(request.grids)
    refuse_too_large(request, len(cells))  # before their images are counted class by class
    counts = [count_images(request.classes, cell) for cell in cells]
    drawn = drawn_by_each(tuple(cells), counts)
    total = sum(drawn)
    datasets = tuple(
        PlannedDataset(cell, grid, images, new)
        for (cell, grid), images, new in zip(cells.items(), counts, drawn, strict=True)
    )
    if request.budget is not None and total > request.budget:
        raise Rejected(
            f"the experiment would draw {total:,} images, its budget is {request.budget:,}; "
            "raise the budget or leave some datasets out",
            pointer="/budget",
        )
    arms = tuple(plan_arms(request, len(datasets)))
    return Plan(datasets, arms, total, images_per_second, total / images_per_second / 3600)


def check_trainings(request: ExperimentRequest) -> None:
    """Raises Rejected as each training would by itself."""
    for name, fields in request.recipes.items():
        try:
            check_architecture_name(fields.architecture)
            fields.resolved_recipe()
        except Rejected as error:
            pointer = "/training" if request.training is not None else f"/trainings/{name}"
            raise Rejected(error.detail, pointer=f"{pointer}{error.pointer or ''}") from error


def distinct_cells(grids: Sequence[Grid]) -> dict[Cell, int]:
    """The cells of all grids in order, each with the number of the first grid that has it."""
    found: dict[Cell, int] = {}
    for number, grid in enumerate(grids):
        for cell in cells_of(grid):
            found.setdefault(cell, number)
    return found


def cells_of(grid: Grid) -> Iterator[Cell]:
    amounts: list[tuple[str | None, int | None]] = [(None, images) for images in grid.images_per_class]
    amounts = amounts or [(size, None) for size in grid.sizes or ("1x",)]
    ways = product(grid.models or (None,), grid.steps or (None,), grid.approximations or (None,))
    for prompt, scale, (model, steps, approximation), (size, images) in product(
        grid.prompts, grid.scales, ways, amounts
    ):
        yield Cell(
            prompt=prompt,
            scale=scale,
            size=size,
            images_per_class=images,
            model=model,
            steps=steps,
            approximation=approximation,
        )


def count_images(classes: ClassSelection, cell: Cell) -> int:
    """Of all classes together."""
    ids = listed_wnids(classes) if isinstance(classes, str) else [""] * len(classes)
    if cell.size is None:
        return len(ids) * (cell.images_per_class or 0)
    return int(cell.size.removesuffix("x")) * sum(images_at_1x(classes, class_id) for class_id in ids)


def drawn_by_each(cells: Sequence[Cell], counts: Sequence[int]) -> list[int]:
    """A cell draws what the next smaller one of its recipe lacks: 1x, 2x and 4x draw 4x in all."""
    order = sorted(range(len(cells)), key=lambda number: counts[number])
    reached: dict[tuple[object, ...], int] = {}
    drawn = [0] * len(cells)
    for number in order:
        recipe = cells[number].recipe
        drawn[number] = counts[number] - reached.get(recipe, 0)
        reached[recipe] = counts[number]
    return drawn


def plan_arms(request: ExperimentRequest, datasets: int) -> Iterator[PlannedArm]:
    for recipe, seed in product(request.recipes, request.seeds):
        yield from (PlannedArm(number, None, recipe, seed) for number in range(datasets))
        yield from (PlannedArm(None, name, recipe, seed) for name in request.real)


def refuse_too_large(request: ExperimentRequest, datasets: int) -> None:
    classes = len(listed_wnids(request.classes) if isinstance(request.classes, str) else request.classes)
    arms = len(request.recipes) * len(request.seeds) * (datasets + len(request.real))
    limits = (
        (datasets, MOST_DATASETS, "datasets"),
        (arms, MOST_ARMS, "trainings"),
        (datasets * classes, MOST_CLASS_ROWS, "classes of all datasets together"),
    )
    for number, most, what in limits:
        if number > most:
            raise Rejected(
                f"the experiment has {number:,} {what}, at most {most:,} are made by one request; split its grids",
                pointer="/grids",
            )


class ExperimentDataset(Frozen):
    id: str
    cell: Cell
    images: int


class Arm(Frozen):
    """One bar: a training and its evaluation, on a dataset of ours or on a real set."""

    dataset: str | None
    real: str | None
    recipe: str
    seed: int
    training: str
    evaluation: str


class ExperimentSpec(Frozen):
    request: ExperimentRequest
    datasets: tuple[ExperimentDataset, ...]
    arms: tuple[Arm, ...]
    version: str
