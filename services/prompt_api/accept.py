"""From a dataset request to what is frozen about it: the spec and one row per class. No I/O but the inserts."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from shared.approximations import LEAST_REUSE, AskedApproximation, approximation_of, are_guided, count_evaluations
from shared.classes import ClassText, images_at_1x
from shared.database import database_now
from shared.errors import Rejected
from shared.lexicon import Lexicon
from shared.models import ModelEntry, find_model, registered
from shared.settings import Settings
from shared.specs import DatasetRequest, DatasetSpec, Recipe
from shared.tables import Job
from shared.tables import Recipe as RecipeRow

from .class_rows import PlannedClass, class_texts, insert_classes, worded_classes
from .new_jobs import VERSION, add_job

DEFAULT_SIZE = "1x"
LEAST_PIXELS = 64  # along a side: at 8 x 8 latents the smallest level of Stable Diffusion 1 sees a single one


class Plan(NamedTuple):
    """A checked request: nothing about it can be refused any more."""

    spec: DatasetSpec
    classes: tuple[PlannedClass, ...]
    entry: ModelEntry

    @property
    def seconds_per_image(self) -> float:
        return self.entry.seconds_per_image * relative_size(self.spec.recipe, self.entry)

    @property
    def bytes_per_image(self) -> int:
        return bytes_per_image(self.spec.recipe, self.entry)


def bytes_per_image(recipe: Recipe, entry: ModelEntry) -> int:
    """Roughly."""
    return round(entry.bytes_per_image * relative_size(recipe, entry))


def relative_size(recipe: Recipe, entry: ModelEntry) -> float:
    """Pixels of an image, in those of the model card's."""
    return recipe.width * recipe.height / entry.image_size**2


def plan_dataset(request: DatasetRequest, settings: Settings, lexicon: Lexicon) -> Plan:
    """Raises Rejected with a pointer to the value at fault."""
    entry = find_model(settings, request.model or settings.default_model)
    refuse_undrawable(class_texts(request.classes, lexicon), entry, registered(settings))
    worded = worded_classes(request.classes, request.prompt, lexicon)
    classes = tuple(PlannedClass(*known, images_of(request, known.text.id)) for known in worded)
    refuse_too_many(classes, request, settings.max_images)
    recipe = make_recipe(request, entry)
    totals = [planned.total for planned in classes]
    spec = DatasetSpec(
        request=request,
        model=entry.name,
        recipe=recipe,
        recipe_digest=recipe.digest,
        lexicon_digest=lexicon.digest,
        class_count=len(classes),
        images_per_class=(min(totals), max(totals)),
        total_images=sum(totals),
        version=VERSION,
    )
    return Plan(spec, classes, entry)


def refuse_undrawable(texts: Sequence[ClassText], entry: ModelEntry, entries: Mapping[str, ModelEntry]) -> None:
    ids = {text.id for text in texts}
    for position, text in enumerate(texts):
        if entry.classes is not None and text.id not in entry.classes:
            able = [name for name, other in entries.items() if other.classes is None or ids <= set(other.classes)]
            remedy = f"use model {' or '.join(able)}" if able else "register a model that can"
            raise Rejected(
                f"model {entry.name!r} cannot draw class {text.id} ({text.names[0]}), number {position}: it was "
                f"trained on {len(entry.classes)} classes only; {remedy}",
                pointer="/model",
            )


def images_of(request: DatasetRequest, class_id: str) -> int:
    if request.images_per_class is not None:
        return request.images_per_class
    size = request.size or DEFAULT_SIZE
    return int(size.removesuffix("x")) * images_at_1x(request.classes, class_id)


def refuse_too_many(classes: Sequence[PlannedClass], request: DatasetRequest, most: int) -> None:
    total = sum(planned.total for planned in classes)
    if total > most:
        pointer = "/size" if request.images_per_class is None else "/images_per_class"
        raise Rejected(
            f"{len(classes)} classes make {total:,} images in all, this server takes {most:,} in one dataset; "
            "ask for fewer, or raise SYNTHCLONE_MAX_IMAGES",
            pointer=pointer,
        )


def make_recipe(request: DatasetRequest, entry: ModelEntry) -> Recipe:
    width, height = image_sides(request, entry)
    scheduler, steps = request.scheduler or entry.scheduler, request.steps or entry.steps
    if request.approximation is not None:
        refuse_pointless_reuse(request.approximation, steps)
        refuse_pointless_interval(request.approximation, request.scale, count_evaluations(scheduler, steps))
    return Recipe(
        model_digest=entry.digest,
        scheduler=scheduler,
        steps=steps,
        guidance=request.scale,
        width=width,
        height=height,
        prompt=request.prompt,
        seed=request.seed,
        engine=approximation_of(request.approximation, is_distilled=entry.distilled) or "exact",
    )


def refuse_pointless_reuse(asked: AskedApproximation, steps: int) -> None:
    if asked.reuse_every is not None and asked.reuse_every > steps:
        remedy = "leave it out" if steps < LEAST_REUSE else f"take {steps} or less"
        raise Rejected(
            f"reuse_every {asked.reuse_every} is more than the {steps} sampler steps; {remedy}",
            pointer="/approximation/reuse_every",
        )


def refuse_pointless_interval(asked: AskedApproximation, scale: float, evaluations: int) -> None:
    if asked.guidance_interval is None:
        return
    if fault := fault_of_interval(asked.guidance_interval, scale, evaluations):
        raise Rejected(
            f"guidance_interval {list(asked.guidance_interval)} {fault}", pointer="/approximation/guidance_interval"
        )


def fault_of_interval(interval: tuple[float, float], scale: float, evaluations: int) -> str | None:
    """Where it would change nothing or everything."""
    if scale <= 1:
        return f"limits guidance, and scale {scale:g} has none; leave it out, or take a scale above 1"
    if evaluations == 1:
        return "is for trajectories of several evaluations of the network, this has 1; leave it out"
    guided = sum(are_guided(evaluations, interval))
    if guided == evaluations:
        return f"guides all {evaluations} evaluations of the network, which is exact; leave it out, or narrow it"
    if guided == 0:
        apart = math.ceil(1000 / evaluations) / 1000  # holds one wherever it begins
        return (
            f"guides none of the {evaluations} evaluations of the network; take numbers {apart:g} or more apart, or "
            "leave it out and take scale 1"
        )
    return None


def image_sides(request: DatasetRequest, entry: ModelEntry) -> tuple[int, int]:
    """Width and height; a model made for images below LEAST_PIXELS may draw any size from its own."""
    sides = {"width": request.width or entry.image_size, "height": request.height or entry.image_size}
    least = min(LEAST_PIXELS, entry.image_size)
    for name, side in sides.items():
        if side < least:
            raise Rejected(
                f"{name} {side} is below {least}, the least that model {entry.name!r} can draw; "
                f"take {least} or more, or leave it out for {entry.image_size}",
                pointer=f"/{name}",
            )
    return sides["width"], sides["height"]


def refuse_past_deadline(session: Session, request: DatasetRequest) -> None:
    """By the database's clock, which is the one that will stop the dataset."""
    now = database_now(session)
    if request.deadline is not None and request.deadline <= now:
        raise Rejected(
            f"deadline {request.deadline.isoformat()} has passed, it is {now.isoformat(timespec='seconds')}; "
            "name a later time or leave it out",
            pointer="/deadline",
        )


def insert_dataset(session: Session, plan: Plan, team: str) -> Job:
    spec = plan.spec
    refuse_past_deadline(session, spec.request)
    add_recipe(session, spec)
    job = add_job(
        session,
        kind="dataset",
        team=team,
        spec=spec.model_dump(mode="json"),
        total=spec.total_images,
        priority=spec.request.priority,
    )
    limit(job, spec.request)
    insert_classes(session, job.id, plan.classes)
    return job


def limit(job: Job, request: DatasetRequest) -> None:
    job.deadline = request.deadline
    if request.budget is not None:
        job.budget_images, job.budget_seconds = request.budget.images, request.budget.worker_seconds


def add_recipe(session: Session, spec: DatasetSpec) -> None:
    row = {"digest": spec.recipe_digest, "recipe": spec.recipe.model_dump(mode="json"), "model": spec.model}
    on_conflict = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgres_insert
    session.execute(on_conflict(RecipeRow).values(row).on_conflict_do_nothing())
