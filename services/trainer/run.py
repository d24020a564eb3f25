"""One rank of one training, from the job's row to the stored encoder."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from shared.vision.networks import library_versions

import torch

from shared.database import Database
from shared.endings import ending_of
from shared.errors import (
    AppError,
    BeingRedrawn,
    ConfigurationError,
    CorruptObject,
    LostLease,
    NotFound,
    Rejected,
    Unavailable,
)
from shared.job_leases import JobLease
from shared.logs import configure_logs
from shared.patience import AWAY
from shared.settings import Settings
from shared.specs import TrainingSpec
from shared.storage import ObjectStore, open_store
from shared.stored.cache import ShardCache
from shared.tables import Job, JsonObject

from .basis import basis_of, refuse_other
from .child import write_ending
from .encoder import make_card, store_encoder
from .fit import fit, refuse_broken_weights
from .journal import Journal
from .learner import Learner, create_learner, restore
from .mirror import Mirror, Shown
from .ranks import Ranks, joined
from .sources import Source, open_source, open_stream, warmup_steps

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
PROBLEMS = {
    problem.__name__: problem
    for problem in (BeingRedrawn, CorruptObject, LostLease, NotFound, Rejected, Unavailable, ConfigurationError)
}
# Of the request; the recipe says the rest.
SHOWN_FIELDS = {"datasets", "real", "shares", "architecture", "steps", "image_size", "seed"}


class Place(NamedTuple):
    """Where a training reads and writes."""

    database: Database
    store: ObjectStore
    cache: ShardCache
    mlflow_uri: str | None = None


class Claimed(NamedTuple):
    lease: JobLease
    spec: TrainingSpec
    checkpoint: JsonObject | None


def train(place: Place, lease: JobLease, ranks: Ranks, stop: threading.Event) -> JsonObject | None:
    """The job's result, which is empty on all ranks but the first; None when told to stop, after a checkpoint."""
    with place.database.read() as session:
        job = session.get_one(Job, lease.job_id)
    spec = TrainingSpec.model_validate(job.spec)
    claimed = Claimed(lease, spec, job.checkpoint)
    if place.mlflow_uri is None or not ranks.is_first:
        return work(place, claimed, ranks, stop, mirror=None)
    with Mirror(place.mlflow_uri, shown(job, spec, ranks)) as mirror:
        result = work(place, claimed, ranks, stop, mirror=mirror)
        mirror.status = "SCHEDULED" if result is None else "FINISHED"
        return result


def shown(job: Job, spec: TrainingSpec, ranks: Ranks) -> Shown:
    """What an MLflow server is told of the training."""
    asked = spec.request.model_dump(mode="json", include=SHOWN_FIELDS)
    fields = asked | spec.recipe.model_dump(mode="json") | {"classes": len(spec.class_ids)}
    parameters = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    versions = {"synthclone": spec.version, **library_versions()}
    tags = {f"version.{name}": version for name, version in versions.items()}
    return Shown(job.id, parameters, tags | {"team": job.team_id, "ranks": str(ranks.size)})


def work(
    place: Place, claimed: Claimed, ranks: Ranks, stop: threading.Event, *, mirror: Mirror | None
) -> JsonObject | None:
    lease, spec = claimed.lease, claimed.spec
    source = shared_source(place, spec, ranks)
    stream = open_stream(spec, source, ranks)
    learner = create_learner(
        spec,
        image_size=stream.image_size,
        steps=stream.steps,
        warmup_steps=warmup_steps(spec.recipe, stream),
        ranks=ranks,
    )
    basis = basis_of(spec, stream)
    if claimed.checkpoint is not None:
        refuse_other(claimed.checkpoint.get("basis"), basis)
    journal = Journal(place.database, place.store, lease, basis=basis, stop=stop, mirror=mirror)
    start = together(ranks, lambda: resume(learner, journal, claimed.checkpoint))
    if not ranks.same_for_all(start):
        raise Unavailable(f"rank {ranks.rank} read the checkpoint of step {start}, others another one; trying again")
    logger.info("training runs", extra={"job_id": lease.job_id, "from_step": start, "device": str(ranks.device)})
    fitted = fit(
        learner, stream, start=start, checkpoint_steps=spec.request.checkpoint_steps, journal=journal, stop=stop
    )
    if fitted is None:
        return None
    if not ranks.is_first:
        return {}
    refuse_broken_weights(learner, fitted.step)
    card = make_card(
        spec,
        training=lease.job_id,
        stream=stream,
        recipe_digests=source.recipe_digests,
        seconds=round(journal.seconds, 1),
    )
    stored = journal.patiently(lambda: store_encoder(place.store, lease, card, learner=learner, journal=journal))
    return stored | {"final_loss": fitted.loss, "steps": fitted.step, "images": card.images, "seconds": card.seconds}


def shared_source(place: Place, spec: TrainingSpec, ranks: Ranks) -> Source:
    """The first rank of each node fills the cache that the node's others then find full."""

    def open_here() -> Source:
        return open_source(spec, database=place.database, store=place.store, cache=place.cache)

    first = together(ranks, lambda: open_here() if ranks.is_first_of_node else None)
    return together(ranks, lambda: first or open_here())


def together(ranks: Ranks, work: Callable[[], Result]) -> Result:
    """Work that every rank does; what keeps one of them from it is raised on all, so that the first rank can say it."""
    problem: AppError | None = None
    try:
        result = work()
    except AppError as error:
        problem = error
    except AWAY as error:
        problem = Unavailable(str(error))
    said = ranks.told("" if problem is None else f"{type(problem).__name__} {problem.detail}")
    if problem is not None:
        raise problem
    for rank, words in enumerate(said):
        if words:
            name, _, detail = words.partition(" ")
            raise PROBLEMS[name](f"{detail} (on rank {rank})")
    return result


def resume(learner: Learner, journal: Journal, row: JsonObject | None) -> int:
    """Continue from the job's checkpoint if it has one; returns how many steps are done."""
    checkpoint = journal.read_checkpoint(row) if row is not None else None
    if checkpoint is None:
        return 0
    restore(learner, checkpoint.tensors)
    return checkpoint.step


def stop_with_parent(stop: threading.Event) -> None:
    """A killed consumer cannot say stop; without it the lease runs out, so a checkpoint must come before that."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    stop.set()


def main(arguments: Sequence[str]) -> None:
    """JOB FENCE FOLDER: what to train, the claim it is trained under, and where to say how it ended.

    Nothing on a node that follows another: the first rank tells all ranks what to train.
    """
    settings = Settings()
    configure_logs(settings.log_format)
    # Denormal numbers, common in freshly initialised networks, slow CPU arithmetic down several times.
    torch.set_flush_denormal(True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=stop_with_parent, args=(stop,), daemon=True).start()
    cache = ShardCache(settings.cache_dir / "shards", min_free_bytes=settings.min_free_bytes)
    place = Place(Database(settings.sqlalchemy_url), open_store(settings), cache, settings.mlflow_uri)
    # What torch.compile makes, for the next training too; a container's /tmp may not hold programs.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.cache_dir.resolve() / "compiled"))
    with joined(settings.device) as ranks:
        job_id, fence = ranks.told(" ".join(arguments[:2]))[0].split()
        ending = ending_of(lambda: train(place, JobLease(job_id, int(fence), attempts=0), ranks, stop))
        has_failed = ending.result is None and not ending.is_stopped
        if arguments and (ranks.is_first or has_failed):
            write_ending(Path(arguments[2]), ending)
        if has_failed:
            logger.error("rank failed", extra={"rank": ranks.rank, "error": ending.error or ending.unavailable})
            sys.exit(1)  # the launcher then ends the other ranks, which may be waiting for this one
        if ending.is_stopped and ranks.size > ranks.neighbours:
            sys.exit(1)  # or this node's launcher waits five minutes for that of a node that was told to go


if __name__ == "__main__":
    main(sys.argv[1:])
