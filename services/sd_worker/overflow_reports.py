"""The first image of a recipe that is not finite, drawn again to find out where, and told to all who wait for it."""

import logging
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

import torch

from shared.database import Database
from shared.models import DType, find_model
from shared.not_finite import note_not_finite
from shared.settings import Settings
from shared.specs import Recipe
from shared.tasks import attempt

from .generate import Drawing, ShardWork

logger = logging.getLogger(__name__)


class Finding(NamedTuple):
    prompt: str
    seed: int
    detail: str


class OverflowReports:
    """One finding for each model and recipe in the life of a worker, noted for every shard that it comes up in."""

    def __init__(self, settings: Settings, database: Database, device: torch.device) -> None:
        self._settings, self._database, self._device = settings, database, device
        self._findings: dict[tuple[str, str], Finding] = {}
        self._noted: WeakSet[ShardWork] = WeakSet()

    def report(self, shard: ShardWork, drawing: Drawing) -> None:
        """Of a drawing that the gate refused as not finite; of its recipe, the first alone is looked at.

        Loads the model beside the engine's and draws one image with it, so it belongs into the thread that draws.
        """
        if shard in self._noted:
            return
        key = (shard.model, shard.lease.recipe_digest)
        if key not in self._findings:
            self._findings[key] = self._find(shard, drawing)
        with self._database.write() as session:
            note_not_finite(session, shard.lease.shard_id, **self._findings[key]._asdict())
        self._noted.add(shard)

    def _find(self, shard: ShardWork, drawing: Drawing) -> Finding:
        details: list[str] = []
        # What goes wrong in looking must not cost the shard its attempt.
        attempt(
            lambda: details.append(self._explain(shard.model, shard.recipe, drawing)),
            on_failure=lambda reason: details.append(f"where it began could not be found out: {reason}"),
        )
        prompt, recipe = drawing.prompt.text, shard.lease.recipe_digest
        logger.warning(
            "an image is not finite",
            extra={
                "model": shard.model,
                "recipe": recipe,
                "prompt": prompt,
                "seed": drawing.seed,
                "reason": details[0],
            },
        )
        return Finding(prompt, drawing.seed, details[0])

    def _explain(self, model: str, recipe: Recipe, drawing: Drawing) -> str:
        entry = find_model(self._settings, model)
        return explain(entry.path(self._settings), self._device, entry.dtype, recipe=recipe, drawing=drawing)


def explain(folder: Path, device: torch.device, dtype: DType | None, *, recipe: Recipe, drawing: Drawing) -> str:
    from .overflow import find_overflow  # diffusers takes seconds to import
    from .pipeline import load_pipeline

    found = find_overflow(load_pipeline(folder, device, dtype), drawing.prompt.text, drawing.seed, recipe)
    return f"{found.text}; {found.remedy}" if found is not None else finite_words(recipe)


def finite_words(recipe: Recipe) -> str:
    """Where diffusers' own pipeline, which knows no approximations, draws the image finite."""
    approximation = recipe.approximation
    if approximation is not None and approximation.is_of_the_trajectory:
        return (
            f"it was {approximation.label}, and exactly it is finite by diffusers' own pipeline: either the "
            "approximation or the engine's order of arithmetic is at fault; ask for the dataset without approximation"
        )
    return "diffusers' own pipeline draws it finite, so the engine's order of arithmetic is at fault; report it"
