"""A data folder with its database, store and settings, and datasets made for the generating worker."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import select

from services.dispatcher.tick import tick
from shared.approximations import Approximation
from shared.database import Database
from shared.migrate import migrate
from shared.models import find_model
from shared.settings import Settings
from shared.shards import unpack
from shared.storage import LocalStore, get_verified
from shared.tables import DatasetClass, Job, Shard
from tests.rows import RECIPE, add_dataset

DIGITS = {"n13742358": "zero", "n13742573": "one"}


class Place:
    """One data folder with its database, store and settings."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder, batch_size=16, lease_seconds=4, poll_seconds=0.1)
        folder.mkdir(parents=True, exist_ok=True)
        migrate(self.settings)
        self.database = Database(self.settings.sqlalchemy_url)
        self.store = LocalStore(self.settings.objects_dir)

    def dataset(
        self,
        *,
        per_class: int,
        steps: int = 2,
        min_std: float = 2.0,
        model_digest: str | None = None,
        approximation: Approximation | None = None,
        width: int = 32,
    ) -> str:
        digest = model_digest or find_model(self.settings, "digits-sd").digest
        gate = RECIPE.gate.model_copy(update={"min_std": min_std})
        changes = {"model_digest": digest, "steps": steps, "gate": gate, "width": width}
        recipe = RECIPE.model_copy(update={**changes, "engine": approximation or "exact"})
        with self.database.write() as session:
            job = add_dataset(session, images=dict.fromkeys(DIGITS, per_class), recipe=recipe)
            for row in session.scalars(select(DatasetClass)):
                row.text = {"id": row.class_id, "names": [DIGITS[row.class_id]]}
        self.tick()
        return job.id

    def tick(self) -> None:
        tick(self.database, self.store, self.settings, absent={})

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return session.get_one(Job, job_id)

    def ended(self, job_id: str) -> Job | None:
        self.tick()
        job = self.job(job_id)
        return job if job.finished_at else None

    def shard_states(self) -> set[tuple[str, int]]:
        with self.database.read() as session:
            return {(state, attempts) for state, attempts in session.execute(select(Shard.state, Shard.attempts))}

    def manifest(self, job_id: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(self.store.get(str((self.job(job_id).result or {})["manifest_key"])))
        return manifest

    def samples(self, job_id: str) -> dict[str, tuple[np.ndarray, dict[str, object]]]:
        """Every sample of the dataset's manifest by key: pixels and metadata."""
        found: dict[str, tuple[np.ndarray, dict[str, object]]] = {}
        for shard in self.manifest(job_id)["shards"]:
            for slot, jpeg, metadata in unpack(get_verified(self.store, shard["key"], shard["sha256"])):
                if slot < shard["start"] + shard["take"]:
                    assert str(metadata["key"]) not in found
                    found[str(metadata["key"])] = (np.asarray(Image.open(io.BytesIO(jpeg)), int), dict(metadata))
        return found
