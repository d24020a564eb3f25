"""What a tested network was trained on and how, in the words of a report."""

from shared.vision.networks import EncoderCard

from pydantic import BaseModel, ConfigDict, JsonValue
from sqlalchemy.orm import Session

from shared.experiments import Cell
from shared.specs import DatasetSpec, ImportedSpec, TrainedSpec, TrainingRequest
from shared.tables import Job

from .published import published_top1, setting_of

DEFAULT_SIZE = "1x"


class TrainedReport(BaseModel):
    """`recipe` is the whole one as frozen with the training, `recipe_digests` are those that its images were drawn by.

    `images` were there to train on; `steps` is null where the recipe's epochs say how long.
    """

    model_config = ConfigDict(frozen=True)

    trained_on: str
    datasets: tuple[str, ...]
    real: str | None
    shares: tuple[float, ...] | None
    images: int
    recipe_digests: tuple[str, ...]
    architecture: str
    image_size: int
    steps: int | None
    seed: int
    recipe: dict[str, JsonValue]
    versions: dict[str, str]


def trained_report(session: Session, card: EncoderCard) -> TrainedReport | None:
    """None of an imported network, of which `import_notes` tells."""
    if isinstance(card.spec, ImportedSpec):
        return None
    request = card.spec.request
    unused = {"epochs"} if request.steps is not None else set()
    return TrainedReport(
        trained_on=trained_on(session, request),
        datasets=request.datasets,
        real=request.real,
        shares=request.shares,
        images=card.images,
        recipe_digests=card.recipe_digests,
        architecture=card.architecture,
        image_size=card.image_size,
        steps=request.steps,
        seed=request.seed,
        recipe=card.spec.recipe.model_dump(mode="json", exclude=unused),
        versions=card.versions,
    )


def import_notes(card: EncoderCard) -> tuple[str, ...]:
    if not isinstance(card.spec, ImportedSpec):
        return ()
    return (
        f"{card.training} was trained elsewhere and imported as {card.spec.imported}: {card.architecture} at "
        f"{card.image_size} pixels, mean {card.mean}, deviation {card.std}; on what and how it was trained is not "
        "known",
    )


def trained_on(session: Session, request: TrainingRequest) -> str:
    """Of each source what it is, with its share where they are mixed."""
    sources = [f"synthetic: {label_of(read_dataset(session, name))}" for name in request.datasets]
    sources += [f"real: {request.real}"] if request.real is not None else []
    if request.shares is not None:
        sources = [f"{100 * share:g} % {source}" for share, source in zip(request.shares, sources, strict=True)]
    return " + ".join(sources)


def read_dataset(session: Session, dataset: str) -> DatasetSpec:
    return DatasetSpec.model_validate(session.get_one(Job, dataset).spec)


def label_of(dataset: DatasetSpec) -> str:
    sides = f", {dataset.recipe.width} x {dataset.recipe.height} pixels" if names_sides(dataset) else ""
    return f"{cell_of(dataset).label}{sides}"


def names_sides(dataset: DatasetSpec) -> bool:
    """Or else its images are as large as the model's card says, as those of every experiment are."""
    return dataset.request.width is not None or dataset.request.height is not None


def cell_of(dataset: DatasetSpec) -> Cell:
    """The dataset as one of an experiment."""
    asked = dataset.request
    return Cell(
        prompt=asked.prompt,
        scale=asked.scale,
        size=asked.size or (DEFAULT_SIZE if asked.images_per_class is None else None),
        images_per_class=asked.images_per_class,
        model=dataset.model,
        steps=asked.steps,
        approximation=dataset.recipe.approximation,
    )


def published_for(
    session: Session, trained: TrainedSpec, *, kind: str | None, crop_pct: float, images: int
) -> float | None:
    """Of a network trained on one whole dataset alone, where it is one of the published settings."""
    if isinstance(trained, ImportedSpec):
        return None
    request = trained.request
    if len(request.datasets) != 1 or request.real is not None:
        return None
    dataset = read_dataset(session, request.datasets[0])
    setting = setting_of(dataset.request.classes, cell_of(dataset))
    is_whole = session.get_one(Job, request.datasets[0]).state == "succeeded"
    if setting is None or not is_whole or dataset.request.scheduler is not None or names_sides(dataset):
        return None
    return published_top1(setting, request, trained.recipe, kind=kind, crop_pct=crop_pct, images=images)
