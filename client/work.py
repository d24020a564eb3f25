"""`synthclone jobs`, `watch`, `cancel`, `retry` and `verify`."""

from itertools import islice
from typing import Annotated

import typer

from .asking import show_submitted
from .console import options, write_json, write_line
from .models import Job, JobKind, JobState, Page
from .watching import watch, write_events

JobId = Annotated[str, typer.Argument(help="Such as ds-01k9...")]


def jobs(
    context: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only jobs of this kind.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Newest first.")] = 20,
) -> None:
    """List jobs."""
    chosen = options(context)
    with chosen.client() as client:
        found = list(islice(client.jobs.list(state=state, kind=kind), limit))
    if chosen.as_json:
        write_json(Page[Job](items=found))
        return
    rows = [
        (job.id, job.state, f"{job.counts.done}/{job.counts.total}", f"{job.created_at:%Y-%m-%d %H:%M}", job.summary)
        for job in found
    ]
    chosen.show(("id", "state", "done", "created (UTC)", "what"), rows)


def watch_job(
    context: typer.Context,
    job_id: JobId,
    timeout: Annotated[float | None, typer.Option(help="Seconds; exit code 4 when they are over.", min=0)] = None,
) -> None:
    """Follow a job to its end; with --json one line per event."""
    chosen = options(context)
    with chosen.client() as client:
        if chosen.as_json:
            write_events(chosen, client, job_id, timeout_seconds=timeout)
        else:
            write_line(watch(chosen, client, job_id, timeout_seconds=timeout).state)


def cancel(context: typer.Context, job_id: JobId) -> None:
    """Ask a job to stop; what it made so far stays."""
    chosen = options(context)
    with chosen.client() as client:
        job = client.jobs.cancel(job_id)
    if chosen.as_json:
        write_json(job)
    else:
        write_line(job.state)


def retry(
    context: typer.Context,
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until the new job ends.")] = False,
) -> None:
    """Submit a failed, cancelled or partial job again, as a new one; finished images are reused."""
    chosen = options(context)
    with chosen.client() as client:
        show_submitted(chosen, client, client.jobs.retry(job_id), follow=follow)


def verify(context: typer.Context, dataset_id: JobId) -> None:
    """Have every stored object of a dataset read again; damaged ones are drawn anew."""
    chosen = options(context)
    with chosen.client() as client:
        job = client.datasets.verify(dataset_id)
    chosen.say("its objects are being read; `synthclone watch` and GET /jobs/<id>/events tell what was found")
    if chosen.as_json:
        write_json(job)
    else:
        write_line(job.id)
