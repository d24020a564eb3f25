"""The first image of a recipe that is not finite, drawn once more to find out where, and told to who asked for it."""

import logging
from pathlib import Path

import torch

from shared.database import Database
from shared.models import DType, find_model
from shared.not_finite import note_not_finite
from shared.settings import Settings
from shared.specs import Recipe
from shared.tasks import attempt

from .generate import Drawing, ShardWork

logger = logging.getLogger(__name__)


class OverflowReports:
    """One for each model and recipe in the life of a worker."""

    def __init__(self, settings: Settings, database: Database, device: torch.device) -> None:
        self._settings, self._database, self._device = settings, database, device
        self._told: set[tuple[str, str]] = set()

    def report(self, shard: ShardWork, drawing: Drawing) -> None:
        """Of a drawing that the gate refused as not finite; the next ones of its recipe are not looked at.

        Loads the model beside the engine's and draws one image with it, so it belongs into the thread that draws.
        """
        key = (shard.model, shard.lease.recipe_digest)
        if key in self._told:
            return
        self._told.add(key)
        # What goes wrong in looking must not cost the shard its attempt.
        attempt(
            lambda: self._tell(shard, drawing, self._explain(shard.model, shard.recipe, drawing)),
            on_failure=lambda reason: self._tell(shard, drawing, f"where it began could not be found out: {reason}"),
        )

    def _explain(self, model: str, recipe: Recipe, drawing: Drawing) -> str:
        entry = find_model(self._settings, model)
        return explain(entry.path(self._settings), self._device, entry.dtype, recipe=recipe, drawing=drawing)

    def _tell(self, shard: ShardWork, drawing: Drawing, detail: str) -> None:
        prompt, recipe = drawing.prompt.text, shard.lease.recipe_digest
        logger.warning(
            "an image is not finite",
            extra={"model": shard.model, "recipe": recipe, "prompt": prompt, "seed": drawing.seed, "reason": detail},
        )
        with self._database.write() as session:
            note_not_finite(session, shard.lease.shard_id, prompt=prompt, seed=drawing.seed, detail=detail)


def explain(folder: Path, device: torch.device, dtype: DType | None, *, recipe: Recipe, drawing: Drawing) -> str:
    from .overflow import find_overflow  # diffusers takes seconds to import
    from .pipeline import load_pipeline

    found = find_overflow(load_pipeline(folder, device, dtype), drawing.prompt.text, drawing.seed, recipe)
    if found is None:
        return "diffusers' own pipeline draws it finite, so the engine's order of arithmetic is at fault; report it"
    return f"{found.text}; {found.remedy}"
