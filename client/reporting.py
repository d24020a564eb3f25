"""`synthclone report`: everything that an evaluation or experiment found out, in a folder."""

from pathlib import Path
from typing import Annotated

import typer

from .console import options, write_json, write_line
from .models import SavedReport
from .session import Client


def report(
    context: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="Id of an evaluation or experiment.")],
    out: Annotated[Path | None, typer.Option(help="The folder; default: one named after the job.")] = None,
) -> None:
    """Write a report into a folder: as JSON, Markdown and HTML, with its figures."""
    chosen = options(context)
    with chosen.client() as client:
        paths = save(client, job_id, out or Path(job_id))
    if chosen.as_json:
        write_json(SavedReport(job=job_id, files=[str(path) for path in paths]))
    else:
        for path in paths:
            write_line(str(path))


def save(client: Client, job_id: str, folder: Path) -> list[Path]:
    kind = client.jobs.get(job_id).kind
    if kind == "evaluation":
        return client.evaluations.save(job_id, folder)
    if kind == "experiment":
        return client.experiments.save(job_id, folder)
    raise typer.BadParameter(f"{job_id} is a {kind}; evaluations and experiments have reports", param_hint="JOB")
