"""Images per second of the generating worker beside the bare diffusers pipeline in a loop: same model, prompts, batch.

`python -m bench.generate`. The worker's time includes what the loop leaves out: claims, gate, JPEG, tar, verified
upload, commit. Both run in one process, taking turns, so that a slow moment of the machine hits both.
"""

import statistics
import tempfile
import threading
import time
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from services.dispatcher.tick import tick
from services.prompt_api.accept import insert_dataset, plan_dataset
from services.sd_worker.worker import ShardWorker
from shared.database import Database
from shared.lexicon import load_lexicon
from shared.migrate import migrate
from shared.schema import DEFAULT_TEAM
from shared.settings import Settings
from shared.specs import DatasetRequest
from shared.storage import open_store

from .machine import write_result

ROUNDS = 4
IMAGES = 640
BATCH = 32


def request(seed: int) -> DatasetRequest:
    """A new seed is a new recipe, so nothing is reused."""
    return DatasetRequest.model_validate(
        {"classes": "digits", "prompt": "description", "scale": 2, "images_per_class": IMAGES // 10, "seed": seed}
    )


class Bare:
    """What a user of diffusers would write."""

    def __init__(self, settings: Settings) -> None:
        plan = plan_dataset(request(0), settings, load_lexicon(settings.lexicon_path))
        self.recipe = plan.spec.recipe
        texts = [f"{', '.join(planned.text.names)}, {planned.text.description}" for planned in plan.classes]
        self.prompts = [text for text in texts for _ in range(IMAGES // len(texts))]
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            plan.entry.path(settings), dtype=torch.float32, safety_checker=None, requires_safety_checker=False
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(self.pipeline.scheduler.config)

    def draw(self, seed: int) -> float:
        started = time.perf_counter()
        for start in range(0, IMAGES, BATCH):
            prompts = self.prompts[start : start + BATCH]
            noise = [torch.Generator("cpu").manual_seed(seed + start + index) for index in range(len(prompts))]
            self.pipeline(
                prompts,
                generator=noise,
                guidance_scale=self.recipe.guidance,
                num_inference_steps=self.recipe.steps,
                output_type="np",
            )
        return time.perf_counter() - started


class Worker:
    """The product's worker on SQLite and a folder."""

    def __init__(self, settings: Settings) -> None:
        migrate(settings)
        self.settings = settings
        self.database, self.store = Database(settings.sqlalchemy_url), open_store(settings)
        self.worker = ShardWorker(settings)

    def draw(self, seed: int) -> float:
        plan = plan_dataset(request(seed), self.settings, load_lexicon(self.settings.lexicon_path))
        with self.database.write() as session:
            insert_dataset(session, plan, DEFAULT_TEAM)
        tick(self.database, self.store, self.settings, absent={})
        started = time.perf_counter()
        assert self.worker.work(threading.Event())
        return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), batch_size=BATCH)
        bare, worker = Bare(settings), Worker(settings)
        bare.draw(0), worker.draw(10**6)  # warm up
        seconds = [(bare.draw(seed), worker.draw(seed)) for seed in range(1, ROUNDS + 1)]
        worker.worker.close()
    plain, ours = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(f"{IMAGES} images of digits-sd, batch {BATCH}, {bare.recipe.steps} steps, median of {ROUNDS} rounds")
    print(f"{'diffusers loop':16}{IMAGES / plain:8.1f} images/s")
    print(f"{'sd_worker':16}{IMAGES / ours:8.1f} images/s")
    print(f"{'time ratio':16}{ours / plain:8.3f}")
    facts = {
        "images": IMAGES,
        "batch": BATCH,
        "seconds": {"diffusers_loop": [pair[0] for pair in seconds], "sd_worker": [pair[1] for pair in seconds]},
        "ratio": round(ours / plain, 3),
    }
    write_result("generate", facts, ("torch", "diffusers", "transformers"))


if __name__ == "__main__":
    main()
