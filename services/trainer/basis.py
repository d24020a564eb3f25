"""What the steps of a training depend on: a checkpoint is gone on from only under the same."""

import hashlib
from collections.abc import Iterator

import numpy as np
from pydantic import JsonValue

from shared.errors import Rejected
from shared.recipes import TrainingRecipe
from shared.specs import TrainingSpec
from shared.tables import JsonObject

from .batches import Stream

WORDS = {"labels": "their labels in order", "parts": "images of each source and its share"}


def basis_of(spec: TrainingSpec, stream: Stream) -> JsonObject:
    """Fewer images, as where one could not be drawn again, would give every later step another batch."""
    labels = np.ascontiguousarray(stream.source.labels, dtype="<i8")
    recipe: JsonValue = spec.recipe.model_dump(mode="json")
    parts: JsonValue = [[part.images, part.share] for part in stream.parts]
    return {
        "images": len(labels),
        "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
        "parts": parts,
        "steps": stream.steps,
        "image_size": stream.image_size,
        "seed": stream.seed,
        "architecture": spec.request.architecture,
        "recipe": recipe,
    }


def refuse_other(then: JsonValue, now: JsonObject) -> None:
    """Raises Rejected with every difference; checkpoints of before did not say what they were made of."""
    if not isinstance(then, dict):
        return
    # A field that a later version added has its default in a recipe of before.
    whole = TrainingRecipe.model_validate(then["recipe"]).model_dump(mode="json")
    if found := list(differences(then | {"recipe": whole}, now)):
        raise Rejected(
            f"the checkpoint was made under other conditions: {'; '.join(found)}; "
            "submit the training again, as a mixture of both would be neither"
        )


def differences(then: JsonObject, now: JsonObject) -> Iterator[str]:
    for name, value in now.items():
        before = then.get(name)
        if before == value:
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            yield from differences(before, value)
        else:
            yield f"{WORDS.get(name, name)} {shown(before)} then, {shown(value)} now"


def shown(value: JsonValue) -> str:
    return f"{value[:8]}..." if isinstance(value, str) and len(value) == 64 else str(value)
