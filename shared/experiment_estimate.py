"""What an experiment would take, before anything is made: every job, images, hours, and what must be there first."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from .experiments import ExperimentRequest, Plan, PlannedArm, distinct_cells, plan
from .frozen import Frozen
from .models import registered
from .settings import Settings

# What every server has registered, with its role; the register itself is in its database (shared/realsets.py).
BUILT_IN_SETS = {"digits-train": "train", "digits": "test"}


class DatasetEstimate(Frozen):
    label: str
    images: int
    drawn_images: int = Field(description="Those that no smaller dataset of the same recipe draws.")


class TrainingEstimate(Frozen):
    """A training and the evaluation of its network."""

    trained_on: str
    recipe: str
    seed: int


class Need(Frozen):
    """`remedy` is null for what is there already."""

    kind: Literal["model", "real training set", "real test set", "real transfer set"]
    name: str
    remedy: str | None


class ExperimentEstimate(Frozen):
    name: str
    datasets: tuple[DatasetEstimate, ...]
    trainings: tuple[TrainingEstimate, ...] = Field(description="Each is followed by one evaluation.")
    benchmarks: tuple[str, ...]
    transfer: tuple[str, ...]
    jobs: int
    drawn_images: int = Field(description="If none of them had been drawn before.")
    images_per_second: float
    gpu_hours: float
    assumption: str
    needs: tuple[Need, ...]


def estimate_experiment(
    request: ExperimentRequest,
    settings: Settings,
    *,
    real_sets: Mapping[str, str] = BUILT_IN_SETS,
    images_per_second: float | None = None,
) -> ExperimentEstimate:
    """At the given rate of one GPU, else the rough one of the slowest model's card; raises Rejected.

    `real_sets` are the roles of the registered sets, by name.
    """
    rate = images_per_second or card_rate(request, settings)
    found = plan(request, images_per_second=rate)
    source = "as given" if images_per_second else "the rough figure of the model's card"
    return ExperimentEstimate(
        name=request.name,
        datasets=tuple(
            DatasetEstimate(label=dataset.cell.label, images=dataset.images, drawn_images=dataset.drawn)
            for dataset in found.datasets
        ),
        trainings=tuple(
            TrainingEstimate(trained_on=trained_on(found, arm), recipe=arm.recipe, seed=arm.seed) for arm in found.arms
        ),
        benchmarks=request.benchmarks,
        transfer=request.transfer,
        jobs=len(found.datasets) + 2 * len(found.arms) + 1,
        drawn_images=found.drawn_images,
        images_per_second=rate,
        gpu_hours=round(found.gpu_hours, 4),
        assumption=f"one GPU draws {rate:g} images per second ({source}); trainings and tests are not counted",
        needs=tuple(needs(request, settings, real_sets)),
    )


def trained_on(found: Plan, arm: PlannedArm) -> str:
    return f"real: {arm.real}" if arm.dataset is None else found.datasets[arm.dataset].cell.label


def models_of(request: ExperimentRequest, settings: Settings) -> list[str]:
    return sorted({cell.model or settings.default_model for cell in distinct_cells(request.grids)})


def card_rate(request: ExperimentRequest, settings: Settings) -> float:
    """Images per second; 1 where no card tells, so that hours are images by 3600."""
    entries = registered(settings)
    seconds = [entries[name].seconds_per_image for name in models_of(request, settings) if name in entries]
    return round(1 / max(seconds), 4) if seconds else 1.0


def needs(request: ExperimentRequest, settings: Settings, real_sets: Mapping[str, str]) -> Iterator[Need]:
    entries = registered(settings)
    for name in models_of(request, settings):
        unknown = f"{name!r} is not registered; add it to the file that SYNTHCLONE_MODELS_FILE names"
        yield Need(kind="model", name=name, remedy=entries[name].missing(settings) if name in entries else unknown)
    for name in request.real:
        yield Need(kind="real training set", name=name, remedy=set_remedy(name, "train", real_sets))
    for name in request.benchmarks:
        yield Need(kind="real test set", name=name, remedy=set_remedy(name, "test", real_sets))
    for name in request.transfer:
        yield Need(kind="real transfer set", name=name, remedy=set_remedy(name, "transfer", real_sets))


def set_remedy(name: str, role: str, real_sets: Mapping[str, str]) -> str | None:
    if name not in real_sets:
        return "to be registered: `synthclone testsets add`, with your own copy"
    if real_sets[name] != role:
        return f"is registered as a {real_sets[name]} set, which serves nothing else; name a {role} set"
    return None
