"""Fails datasets whose model no live worker has, with the remedy, instead of letting them wait for ever."""

import time

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared import lifecycle
from shared.models import registered
from shared.settings import Settings
from shared.tables import Job
from shared.workers import live_workers

AbsentSince = dict[str, float]
"""Model to the moment, by this process's monotonic clock, since which workers were alive but none had it."""


def fail_without_weights(session: Session, settings: Settings, absent: AbsentSince) -> int:
    """A model that comes back in time, as in a rolling update, costs no job. With no worker alive at all a job
    waits: a cluster may have scaled to zero. Returns how many failed."""
    workers = live_workers(session, "generate")
    if not workers:
        absent.clear()
        return 0
    present = {model for worker in workers for model in worker.models}
    for model in present & absent.keys():
        del absent[model]
    failed = 0
    queued = select(Job).where(Job.kind == "dataset", Job.state == "queued").order_by(Job.id)
    # Locked against commits of shared shards that count in the job at this moment.
    for job in session.scalars(queued.with_for_update(skip_locked=True)).all():
        model = str(job.spec["model"])
        if model not in present and is_gone(model, settings, absent):
            error = lifecycle.failure("weights-missing", explain(settings, model, len(workers)), retryable=True)
            failed += lifecycle.transition(session, job.id, "failed", error=error)
    return failed


def is_gone(model: str, settings: Settings, absent: AbsentSince) -> bool:
    now = time.monotonic()
    return now - absent.setdefault(model, now) > settings.missing_model_seconds


def explain(settings: Settings, model: str, workers: int) -> str:
    entry = registered(settings).get(model)
    remedy = entry.missing(settings) if entry else "the model is no longer registered"
    return f"none of {workers} live workers can draw with {model!r}: {remedy or 'see the log of sd_worker'}"
