"""Fails datasets whose model no live worker has, with the remedy, instead of letting them wait for ever."""

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared import lifecycle
from shared.database import database_now
from shared.models import registered
from shared.settings import Settings
from shared.tables import Job
from shared.workers import live_workers


def fail_without_weights(session: Session, settings: Settings) -> int:
    """With no worker alive at all a job waits: a cluster may have scaled to zero. Returns how many failed."""
    workers = live_workers(session, "generate")
    if not workers:
        return 0
    present = {model for worker in workers for model in worker.models}
    old = database_now(session) - timedelta(seconds=settings.missing_model_seconds)
    waiting = select(Job).where(Job.kind == "dataset", Job.state == "queued", Job.created_at < old)
    failed = 0
    for job in session.scalars(waiting).all():
        model = str(job.spec["model"])
        if model not in present:
            error = lifecycle.failure("weights-missing", explain(settings, model, len(workers)), retryable=True)
            failed += lifecycle.transition(session, job.id, "failed", error=error)
    return failed


def explain(settings: Settings, model: str, workers: int) -> str:
    entry = registered(settings).get(model)
    remedy = entry.missing(settings) if entry else "the model is no longer registered"
    return f"none of {workers} live workers can draw with {model!r}: {remedy or 'see the log of sd_worker'}"
