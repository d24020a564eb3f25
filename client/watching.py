"""Following one job to its end in the terminal."""

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .console import Options, write_json
from .errors import JobFailed
from .models import Job
from .session import Client

INTERRUPTED = 130


def watch(options: Options, client: Client, job_id: str, *, timeout_seconds: float | None = None) -> Job:
    """With a bar on stderr; raises JobFailed, WaitTimeout, or Exit(130) when the user has seen enough."""
    try:
        with progress_bar(options.messages) as bar:
            row = bar.add_task(job_id, total=None)
            for job in client.jobs.changes(job_id, timeout_seconds=timeout_seconds):
                bar.update(row, completed=job.counts.done, total=job.counts.total or None, description=described(job))
    except KeyboardInterrupt as error:
        raise detached(options, job_id) from error
    return ended(options, job)


def write_events(options: Options, client: Client, job_id: str, *, timeout_seconds: float | None) -> Job:
    """One JSON line per event; raises what `watch` raises."""
    try:
        for event in client.jobs.events(job_id, timeout_seconds=timeout_seconds):
            write_json(event)
    except KeyboardInterrupt as error:
        raise detached(options, job_id) from error
    return ended(options, client.jobs.get(job_id))


def detached(options: Options, job_id: str) -> typer.Exit:
    options.say(f"detached; the job goes on. Re-attach: synthclone watch {job_id}")
    return typer.Exit(INTERRUPTED)


def ended(options: Options, job: Job) -> Job:
    if not job.ended_well:
        raise JobFailed(job)
    if job.state == "partial":
        options.say(f"{job.id} ended partial: {job.counts.failed} of {job.counts.total} could not be made")
    return job


def described(job: Job) -> str:
    rate = f" {job.rate:.1f}/s" if job.rate else ""
    return f"{job.id} {job.state}{rate}"


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
