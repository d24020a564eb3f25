"""From shard leases to finished samples, without I/O: what to draw for a slot, and what becomes of each image."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from pydantic import JsonValue

from shared.classes import ClassText
from shared.leases import ShardLease
from shared.prompts import Prompt, render
from shared.seeds import slot_seed
from shared.shards import Sample, class_number
from shared.specs import Recipe

from .encoding import Encoded
from .gate import Verdict


class Slot(NamedTuple):
    """One image to draw; a rejected one comes back with the next attempt."""

    shard_id: int
    slot: int
    attempt: int


class Drawing(NamedTuple):
    prompt: Prompt
    seed: int


class Accepted(NamedTuple):
    slot: Slot
    drawing: Drawing
    jpeg: bytes
    verdict: Verdict


class ShardWork:
    """A shard on its way: which slots are still open, what was accepted, what was rejected and why."""

    def __init__(self, lease: ShardLease, recipe: Recipe, model: str) -> None:
        self.lease = lease
        self.recipe = recipe
        self.model = model
        self.text = ClassText.model_validate(lease.class_text)
        self.accepted: list[Accepted] = []
        self.short: list[int] = []
        self.rejections: Counter[str] = Counter()
        self.seconds = 0.0  # of this worker, spent on drawing it

    @property
    def is_complete(self) -> bool:
        return len(self.accepted) + len(self.short) == self.lease.stop_slot - self.lease.start_slot

    def slots(self) -> Iterable[Slot]:
        return (Slot(self.lease.shard_id, slot, 0) for slot in range(self.lease.start_slot, self.lease.stop_slot))

    def drawing(self, slot: Slot) -> Drawing:
        """The prompt and noise seed of a slot: a pure function of recipe, class, slot and attempt."""
        place = (self.lease.recipe_digest, self.lease.class_key, slot.slot, slot.attempt)
        prompt = render(self.recipe.prompt, self.text, slot=slot.slot, background_seed=slot_seed(*place, "background"))
        return Drawing(prompt, slot_seed(*place, "noise"))

    def take(self, slot: Slot, drawing: Drawing, encoded: Encoded) -> Slot | None:
        """Accept the image, or return the slot to draw again, or give the slot up after its last attempt."""
        verdict, jpeg = encoded
        if verdict.reason is None:
            self.accepted.append(Accepted(slot, drawing, jpeg, verdict))
            return None
        self.rejections[verdict.reason] += 1
        if slot.attempt + 1 < self.recipe.gate.max_attempts:
            return slot._replace(attempt=slot.attempt + 1)
        self.short.append(slot.slot)
        return None

    def samples(self) -> list[Sample]:
        return [self.sample(accepted) for accepted in self.accepted]

    def sample(self, accepted: Accepted) -> Sample:
        """The JPEG with everything needed to draw it again, of an exact recipe by plain diffusers."""
        slot, drawing, jpeg, verdict = accepted
        lease, recipe = self.lease, self.recipe
        key = f"{lease.class_id}_{slot.slot:08d}"
        metadata: dict[str, JsonValue] = {
            "key": key,
            "class_id": lease.class_id,
            "names": list(self.text.names),
            "slot": slot.slot,
            "attempt": slot.attempt,
            "prompt": drawing.prompt.text,
            "background": drawing.prompt.background,
            "prompt_strategy": recipe.prompt.kind,
            "seed": drawing.seed,
            "model": self.model,
            "model_digest": recipe.model_digest,
            "scheduler": recipe.scheduler,
            "steps": recipe.steps,
            "guidance_scale": recipe.guidance,
            "width": recipe.width,
            "height": recipe.height,
            "recipe_digest": lease.recipe_digest,
            "mean": verdict.mean,
            "std": verdict.std,
            "sha256": hashlib.sha256(jpeg).hexdigest(),
        }
        if recipe.approximation is not None:
            metadata["approximation"] = recipe.approximation.model_dump(mode="json")
        return Sample(key, slot.slot, jpeg, class_number(lease.class_id, lease.class_key), metadata)


def next_batch(queue: deque[Slot], size: int) -> list[Slot]:
    return [queue.popleft() for _ in range(min(size, len(queue)))]
