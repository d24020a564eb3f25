"""What can be asked for: class lists, models, and the prompts a request would draw."""

from typing import Annotated

from fastapi import APIRouter, Body

from shared.classes import ClassList, class_lists, resolve_classes
from shared.errors import NotFound
from shared.lexicon import load_lexicon
from shared.models import ModelEntry, registered
from shared.realsets import RealSet, registered_sets
from shared.settings import Settings
from shared.workers import live_workers

from .accept import plan_dataset
from .dependencies import JsonBody, ServerDatabase, ServerSettings, TeamId
from .examples import PREVIEWS
from .preview import preview
from .problems import documented
from .schemas import (
    ClassListDetail,
    ClassListView,
    ListedClass,
    ModelView,
    PreviewRequest,
    PromptPreview,
    RealSetDetail,
    RealSetView,
)

router = APIRouter(tags=["catalogue"])


@router.get("/class-lists", responses=documented())
def list_class_lists(team: TeamId) -> list[ClassListView]:
    """The class lists that `classes` takes by name."""
    return [view_list(known) for known in class_lists()]


def view_list(known: ClassList) -> ClassListView:
    return ClassListView(name=known.name, classes=known.size, images_at_1x=sum(known.images.values()))


@router.get("/class-lists/{name}", responses=documented(404))
def get_class_list(name: str, settings: ServerSettings, team: TeamId) -> ClassListDetail:
    """One list with its classes in label order."""
    found = [known for known in class_lists() if known.name == name]
    if not found:
        raise NotFound(f"there is no class list {name!r}; known: {', '.join(known.name for known in class_lists())}")
    items = [
        ListedClass(
            label=label,
            id=text.id,
            names=list(text.names),
            hypernym=text.hypernym,
            description=text.description,
            images_at_1x=found[0].images[text.id],
        )
        for label, text in enumerate(resolve_classes(name, load_lexicon(settings.lexicon_path)))
    ]
    return ClassListDetail(**view_list(found[0]).model_dump(), items=items)


@router.get("/testsets", responses=documented())
def list_real_sets(database: ServerDatabase, team: TeamId) -> list[RealSetView]:
    """The real image sets that trainings and evaluations take by name, the same for every team."""
    with database.read() as session:
        return [view_set(known) for known in registered_sets(session).values()]


def view_set(known: RealSet) -> RealSetView:
    return RealSetView(
        name=known.name,
        role=known.role,
        kind=known.place.kind if known.place else None,
        classes=len(known.class_ids),
        images=known.images,
        test_images=known.test_images,
        built_in=known.place is None,
    )


@router.get("/testsets/{name}", responses=documented(404))
def get_real_set(name: str, database: ServerDatabase, team: TeamId) -> RealSetDetail:
    """One set with its classes."""
    with database.read() as session:
        known = registered_sets(session)
    if name not in known:
        raise NotFound(f"there is no real image set {name[:50]!r}; known: {', '.join(known)}")
    return RealSetDetail(**view_set(known[name]).model_dump(), class_ids=list(known[name].class_ids))


@router.get("/models", responses=documented())
def list_models(settings: ServerSettings, database: ServerDatabase, team: TeamId) -> list[ModelView]:
    """The registered generators."""
    with database.read() as session:
        live = [name for worker in live_workers(session, "generate") for name in worker.models]
    return [view_model(settings, entry, live.count(entry.name)) for entry in registered(settings).values()]


def view_model(settings: Settings, entry: ModelEntry, workers: int) -> ModelView:
    return ModelView(
        name=entry.name,
        licence=entry.licence,
        is_default=entry.name == settings.default_model,
        image_size=entry.image_size,
        scheduler=entry.scheduler,
        steps=entry.steps,
        distilled=entry.distilled,
        classes=list(entry.classes) if entry.classes is not None else None,
        available=workers > 0 or entry.missing(settings) is None,
        live_workers=workers,
    )


@router.post("/prompts/preview", dependencies=[JsonBody], responses=documented(400, 413, 415))
def preview_prompts(
    request: Annotated[PreviewRequest, Body(openapi_examples=PREVIEWS)],
    settings: ServerSettings,
    team: TeamId,
) -> PromptPreview:
    """The prompts that POST /datasets would draw for the same body."""
    plan = plan_dataset(request.dataset_request(), settings, load_lexicon(settings.lexicon_path))
    return preview(plan, settings, slots=request.slots, limit=request.limit)
