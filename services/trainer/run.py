"""One rank of one training, from the job's row to the stored encoder."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from shared.database import Database
from shared.endings import ending_of
from shared.job_leases import JobLease
from shared.logs import configure_logs
from shared.settings import Settings
from shared.specs import TrainingSpec
from shared.storage import ObjectStore, open_store
from shared.tables import Job, JsonObject

from .child import write_ending
from .encoder import make_card, store_encoder
from .fit import fit
from .journal import Journal
from .learner import Learner, create_learner, restore
from .ranks import Ranks, joined
from .sources import Source, open_source, open_stream

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a training reads and writes."""

    database: Database
    store: ObjectStore
    cache_dir: Path


def train(place: Place, lease: JobLease, ranks: Ranks, stop: threading.Event) -> JsonObject | None:
    """The job's result, or None when told to stop, after a checkpoint."""
    with place.database.read() as session:
        job = session.get_one(Job, lease.job_id)
    spec = TrainingSpec.model_validate(job.spec)
    source = shared_source(place, spec, ranks)
    stream = open_stream(spec.request, source.images, ranks)
    learner = create_learner(
        spec.request, classes=len(spec.class_ids), image_size=stream.image_size, steps=stream.steps, ranks=ranks
    )
    journal = Journal(place.database, place.store, lease, stop=stop)
    start = resume(learner, journal, job.checkpoint)
    logger.info("training runs", extra={"job_id": job.id, "from_step": start, "device": str(ranks.device)})
    fitted = fit(learner, stream, start=start, journal=journal, stop=stop)
    if fitted is None or not ranks.is_first:
        return None
    card = make_card(
        spec,
        training=job.id,
        stream=stream,
        recipe_digests=source.recipe_digests,
        seconds=round(journal.seconds, 1),
    )
    stored = journal.patiently(lambda: store_encoder(place.store, lease, card, learner=learner, journal=journal))
    return stored | {"final_loss": fitted.loss, "steps": fitted.step, "images": card.images, "seconds": card.seconds}


def shared_source(place: Place, spec: TrainingSpec, ranks: Ranks) -> Source:
    """The first rank fills the cache that the others then find full."""
    if not ranks.is_first:
        ranks.wait()
    source = open_source(spec, database=place.database, store=place.store, cache_dir=place.cache_dir)
    if ranks.is_first:
        ranks.wait()
    return source


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
    """JOB FENCE FOLDER: what to train, the claim it is trained under, and where to say how it ended."""
    job_id, fence, folder = arguments
    settings = Settings()
    configure_logs(settings.log_format)
    # Denormal numbers, common in freshly initialised networks, slow CPU arithmetic down several times.
    torch.set_flush_denormal(True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=stop_with_parent, args=(stop,), daemon=True).start()
    place = Place(Database(settings.sqlalchemy_url), open_store(settings), settings.cache_dir / "shards")
    with joined(settings.device) as ranks:
        ending = ending_of(lambda: train(place, JobLease(job_id, int(fence), attempts=0), ranks, stop))
        has_failed = ending.result is None and not ending.is_stopped
        if ranks.is_first or has_failed:
            write_ending(Path(folder), ending)
        if has_failed:
            sys.exit(1)  # the launcher then ends the other ranks, which may be waiting for this one


if __name__ == "__main__":
    main(sys.argv[1:])
