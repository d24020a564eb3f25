"""What a request would make, without making it: rough costs, and the first prompts word for word."""

from collections.abc import Sequence
from pathlib import Path

from shared.models import ModelEntry
from shared.prompts import Prompt, ambiguities, render
from shared.seeds import slot_seed
from shared.settings import Settings
from shared.specs import DatasetSpec
from shared.tokens import CLIP_TOKEN_LIMIT, count_tokens

from .accept import Plan
from .class_rows import PlannedClass
from .job_view import spell_out
from .schemas import ClassPrompts, Estimate, PromptPreview, PromptView


def estimate(plan: Plan) -> Estimate:
    asked = spell_out(plan.spec)
    images = plan.spec.total_images
    return Estimate(
        summary=asked.summary,
        images_per_class=asked.images_per_class,
        total_images=images,
        estimated_bytes=images * plan.bytes_per_image,
        estimated_worker_hours=round(images * plan.seconds_per_image / 3600, 4),
        warnings=warnings(plan),
    )


def warnings(plan: Plan) -> list[str]:
    return list(ambiguities([planned.text for planned in plan.classes], plan.spec.recipe.prompt))


def preview(plan: Plan, settings: Settings, *, slots: int, limit: int) -> PromptPreview:
    shown = plan.classes[:limit]
    prompts = [[render_slot(plan.spec, planned, slot) for slot in range(slots)] for planned in shown]
    tokens = count(plan.entry, settings, [prompt.text for row in prompts for prompt in row])
    items = [
        view_class(label, planned, prompts[label], tokens[label * slots : (label + 1) * slots])
        for label, planned in enumerate(shown)
    ]
    return PromptPreview(
        model=plan.spec.model,
        recipe_digest=plan.spec.recipe_digest,
        token_limit=CLIP_TOKEN_LIMIT,
        classes=len(plan.classes),
        items=items,
        warnings=warnings(plan),
    )


def render_slot(spec: DatasetSpec, planned: PlannedClass, slot: int) -> Prompt:
    # The first attempt's background; an image that is redrawn takes the next attempt's.
    seed = slot_seed(spec.recipe_digest, planned.key, slot, 0, "background")
    return render(spec.recipe.prompt, planned.text, slot=slot, background_seed=seed)


def count(entry: ModelEntry, settings: Settings, texts: Sequence[str]) -> Sequence[int | None]:
    """None where the model has a vocabulary of its own that is not on this machine."""
    if entry.clip_tokenizer:
        return count_tokens(texts, None)
    vocabulary: Path = entry.path(settings) / "tokenizer" / "tokenizer.json"
    return count_tokens(texts, vocabulary) if vocabulary.is_file() else [None] * len(texts)


def view_class(
    label: int, planned: PlannedClass, prompts: Sequence[Prompt], tokens: Sequence[int | None]
) -> ClassPrompts:
    views = [
        PromptView(
            slot=slot,
            text=prompt.text,
            background=prompt.background,
            tokens=size,
            over_limit=size is not None and size > CLIP_TOKEN_LIMIT,
        )
        for slot, (prompt, size) in enumerate(zip(prompts, tokens, strict=True))
    ]
    return ClassPrompts(label=label, id=planned.text.id, name=planned.text.names[0], prompts=views)
