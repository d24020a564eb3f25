"""What a training writes down while it runs: curves, progress and checkpoints, all under its lease."""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load, save
from sqlalchemy import select
from torch import Tensor

from shared.database import Database
from shared.errors import CorruptObject, NotFound, Unavailable
from shared.job_leases import JobLease, report_progress, save_checkpoint
from shared.patience import insist
from shared.storage import ObjectStore, get_verified
from shared.tables import JsonObject, Metric

from .mirror import Mirror

logger = logging.getLogger(__name__)
KEPT_CHECKPOINTS = 2
CHECKPOINT_FIELDS = ("key", "sha256", "step", "seconds")
# Other ranks wait for the first one meanwhile, and NCCL gives up after ten minutes.
WAIT_SECONDS = 300.0
Result = TypeVar("Result")


class Checkpoint(NamedTuple):
    """The state after `step` steps; `seconds` is the time spent until then, over all attempts."""

    step: int
    seconds: float
    tensors: Mapping[str, Tensor]


class Journal:
    """Every write raises LostLease once another worker holds the job; what was uploaded before that counts nowhere.

    A store or database that is away halts the training, which then goes on; `stop` ends the waiting.
    """

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        lease: JobLease,
        *,
        basis: JsonObject,
        stop: threading.Event,
        mirror: Mirror | None = None,
    ) -> None:
        self._database, self._store, self._lease, self._stop = database, store, lease, stop
        self._basis, self._mirror = basis, mirror
        self._checkpoints: list[JsonObject] = []
        self._started, self._seconds_before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def patiently(self, write: Callable[[], Result]) -> Result:
        return insist(write, stop=self._stop, seconds=WAIT_SECONDS)

    def write_progress(self, *, done: int, total: int, values: Mapping[str, float]) -> None:
        self.patiently(partial(self._write_progress, done, total, values))
        if self._mirror is not None:
            self._mirror.add(done, values)

    def _write_progress(self, done: int, total: int, values: Mapping[str, float]) -> None:
        with self._database.write() as session:
            report_progress(session, self._lease, done=done, total=total)
            for name, value in values.items():
                # A training resumed from before this step passes it again.
                session.merge(Metric(job_id=self._lease.job_id, name=name, step=done, value=value))

    def write_checkpoint(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        data = save(dict(tensors))
        key = f"trainings/{self._lease.job_id}/checkpoints/{step:08d}-{self._lease.fence}.safetensors"
        self.patiently(partial(self._store.put, key, data))
        row: JsonObject = {
            "key": key,
            "sha256": hashlib.sha256(data).hexdigest(),
            "step": step,
            "seconds": round(self.seconds, 1),
        }
        before = self._checkpoints[-1] if self._checkpoints else None
        self.patiently(partial(self._commit_checkpoint, row | {"before": before, "basis": self._basis}))
        logger.info("checkpoint stored", extra={"job_id": self._lease.job_id, "step": step, "bytes": len(data)})
        self._checkpoints.append(row)
        while len(self._checkpoints) > KEPT_CHECKPOINTS:
            self._forget(str(self._checkpoints.pop(0)["key"]))

    def _commit_checkpoint(self, row: JsonObject) -> None:
        with self._database.write() as session:
            save_checkpoint(session, self._lease, row)

    def _forget(self, key: str) -> None:
        try:
            self._store.delete(key)
        except Unavailable as problem:
            logger.warning("old checkpoint left to the sweep", extra={"key": key, "reason": problem.detail})

    def read_checkpoint(self, row: JsonObject) -> Checkpoint | None:
        """The one before where the last is lost or damaged; None when that is too: the training then starts again and
        reaches the same weights."""
        before = row.get("before")
        rows = [{name: row[name] for name in CHECKPOINT_FIELDS}, *([before] if isinstance(before, dict) else [])]
        for place, known in enumerate(rows):
            tensors = self._read_tensors(known)
            if tensors is not None:
                self._checkpoints = rows[place:][::-1]
                self._seconds_before = float(str(known["seconds"]))
                return Checkpoint(int(str(known["step"])), self._seconds_before, tensors)
        return None

    def _read_tensors(self, row: JsonObject) -> Mapping[str, Tensor] | None:
        key = str(row["key"])
        try:
            tensors: Mapping[str, Tensor] = load(get_verified(self._store, key, str(row["sha256"])))
        except (CorruptObject, NotFound, SafetensorError) as error:
            logger.error("checkpoint unusable", extra={"key": key, "reason": str(error)})
            return None
        return tensors

    def metrics_lines(self) -> bytes:
        """The curves so far as JSON lines, one step a line."""
        steps: dict[int, dict[str, float]] = {}
        with self._database.read() as session:
            query = select(Metric).where(Metric.job_id == self._lease.job_id).order_by(Metric.step, Metric.name)
            rows = session.scalars(query).all()
        for row in rows:
            steps.setdefault(row.step, {})[row.name] = row.value
        return "".join(json.dumps({"step": step, **values}) + "\n" for step, values in steps.items()).encode()
