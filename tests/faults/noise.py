"""A generator that needs no weights: an image is noise that follows from its prompt and seed alone."""

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.sd_worker.drawn import Ready, as_drawn
from services.sd_worker.machine import Machine
from shared.specs import Recipe

from .model import BATCH_SECONDS, KILLS, RAISES


class Noise:
    def __init__(self, folder: Path, machine: Machine) -> None:
        self._batch_seconds = float(os.environ.get(BATCH_SECONDS, "0"))

    def start(self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> Ready:
        # Not time.sleep, which libfaketime breaks: it moves the deadline that Python gives on the monotonic clock.
        threading.Event().wait(self._batch_seconds)
        if any(KILLS in prompt for prompt in prompts):
            os._exit(9)
        if any(RAISES in prompt for prompt in prompts):
            raise RuntimeError("this class cannot be drawn")
        images = [noise(prompt, seed, recipe) for prompt, seed in zip(prompts, seeds, strict=True)]
        return Ready(as_drawn(np.stack(images)))


def noise(prompt: str, seed: int, recipe: Recipe) -> NDArray[np.float32]:
    digest = hashlib.sha256(f"{prompt}\0{seed}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "big"))
    return generator.random((recipe.height, recipe.width, 3), dtype=np.float32)
