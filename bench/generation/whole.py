"""The whole worker beside its engine alone: claims, gate, JPEG, tar, verified upload and commits included."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from services.dispatcher.tick import tick
from services.sd_worker.batches import Generator
from services.sd_worker.drawn import Drawn, Pending
from services.sd_worker.machine import Machine
from services.sd_worker.rate import seconds_of
from services.sd_worker.worker import ShardWorker
from shared.database import Database
from shared.migrate import migrate
from shared.models import find_model
from shared.prompts import PromptSpec
from shared.settings import Settings
from shared.specs import Recipe
from shared.storage import open_store
from shared.tables import Job
from tests.rows import add_dataset

from .arms import Ours
from .plan import Plan
from .result import WorkerResult


class Watched:
    """A generator that keeps when its first batch was started and when its last one was taken."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.began: float | None = None
        self.ended = 0.0

    def make(self, _folder: Path, _machine: Machine) -> "Watched":
        return self

    def start(self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> "WatchedBatch":
        self.began = self.began or time.perf_counter()
        return WatchedBatch(self, self.generator.start(prompts, seeds, recipe))


class WatchedBatch(NamedTuple):
    by: Watched
    pending: Pending

    @property
    def is_ready(self) -> bool:
        return self.pending.is_ready

    def wait(self) -> Drawn:
        drawn = self.pending.wait()
        self.by.ended = time.perf_counter()
        return drawn


def beside_engine(ours: Ours, plan: Plan, folder: Path) -> WorkerResult:
    """On SQLite and a folder, from the first batch's start to the last one's end, as the engine alone is measured."""
    images = plan.whole_batches * ours.batch
    alone = images / seconds_of(ours.generator, ours.generator.machine, plan.recipe, batches=plan.whole_batches)
    device = Watched(ours.generator)
    draw(device, Settings(data_dir=folder, batch_size=ours.batch, device="cpu"), plan.recipe, images)
    whole = images / (device.ended - (device.began or 0.0))
    return WorkerResult(images=images, engine=round(alone, 4), worker=round(whole, 4), ratio=round(whole / alone, 4))


def draw(device: Watched, settings: Settings, recipe: Recipe, images: int) -> None:
    """A dataset of one class, by a worker whose device this is."""
    migrate(settings)
    digest = find_model(settings, settings.default_model).digest
    recipe = recipe.model_copy(update={"model_digest": digest, "prompt": PromptSpec(kind="name")})
    database = Database(settings.sqlalchemy_url)
    with database.write() as session:
        job = add_dataset(session, images={"n01440764": images}, recipe=recipe)
    tick(database, open_store(settings), settings, absent={})
    worker = ShardWorker(settings, make_generator=device.make)
    assert worker.work(threading.Event())
    worker.close()
    with database.read() as session:
        assert session.get_one(Job, job.id).drawn_images == images, "the gate sent images back"
    database.engine.dispose()
