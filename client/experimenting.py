"""`synthclone experiment`: a YAML file in; datasets, trainings, tests and one report out."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from shared.experiment_estimate import ExperimentEstimate, estimate_experiment
from shared.experiments import ExperimentRequest

from .asking import Key
from .console import Options, options, write_json, write_line
from .errors import JobFailed
from .experiment_file import read_experiment
from .models import Experiment
from .session import Client
from .setup import load_settings
from .watching import INTERRUPTED, detached

LOOK_SECONDS = 5.0
MOST_NAMES = 3  # of test sets in a row


def experiment(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A YAML file; experiments/ has examples.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List jobs, images and hours; needs no server.")] = False,
    rate: Annotated[
        float | None, typer.Option("--images-per-second", min=1e-6, help="Of one GPU, for --dry-run.")
    ] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Stay until the report is there.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report into this folder; implies --watch.")] = None,
    local: Annotated[
        Path | None, typer.Option(help="Run every service on this machine in this folder, until the report is in it.")
    ] = None,
    idempotency_key: Key = None,
) -> None:
    """Draw whole grids of datasets, train on each and on real images, test all, and report with two figures."""
    chosen, request = options(context), read_experiment(file)
    if dry_run:
        show_estimate(chosen, estimate_experiment(request, load_settings(), images_per_second=rate))
    elif local is not None:
        run_here(chosen, request, local)
    else:
        submit(chosen, request, out, follow=follow or out is not None, key=idempotency_key)


def submit(chosen: Options, request: ExperimentRequest, out: Path | None, *, follow: bool, key: str | None) -> None:
    with chosen.client() as client:
        job = client.experiments.submit(request, idempotency_key=key)
        chosen.say(f"{job.summary}\n{client.connection.url}/experiments/{job.id}")
        if follow:
            job = watch_experiment(chosen, client, job.id).job
        if out is not None:
            for path in client.experiments.save(job.id, out):
                chosen.say(f"written: {path}")
    if chosen.as_json:
        write_json(job)
    else:
        write_line(job.id)


def run_here(chosen: Options, request: ExperimentRequest, folder: Path) -> None:
    from services.standalone.experiment import run_experiment

    try:
        found = run_experiment(request, folder, chosen.messages)
    except KeyboardInterrupt as error:
        chosen.say(f"stopped; what is finished stays in {folder}. The same command goes on there.")
        raise typer.Exit(INTERRUPTED) from error
    tell_failures(chosen, found, server=f"with `synthclone up --data {folder / 'data'}`, ")
    chosen.say(f"written to {folder}: report.json, {', '.join(found.files)}")
    if chosen.as_json:
        write_json(found.job)
    else:
        write_line(found.job.id)


def watch_experiment(chosen: Options, client: Client, experiment_id: str) -> Experiment:
    """With a bar for each kind of job; raises JobFailed, or Exit(130) when the user has seen enough."""
    try:
        with stage_bars(chosen) as bars:
            rows = {name: bars.add_task(name, total=None) for name in ("datasets", "trainings", "evaluations")}
            while not (found := client.experiments.get(experiment_id)).job.terminal:
                update_bars(bars, rows, found)
                time.sleep(LOOK_SECONDS)
            update_bars(bars, rows, found)
    except KeyboardInterrupt as error:
        raise detached(chosen, experiment_id) from error
    if not found.job.ended_well:
        raise JobFailed(found.job)
    tell_failures(chosen, found)
    return found


def stage_bars(chosen: Options) -> Progress:
    return Progress(
        TextColumn("{task.description:11}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=chosen.messages,
    )


def update_bars(bars: Progress, rows: Mapping[str, TaskID], found: Experiment) -> None:
    for name, row in rows.items():
        stage = found.stages[name]
        bars.update(row, completed=stage.done, total=stage.total or None)


def tell_failures(chosen: Options, found: Experiment, *, server: str = "") -> None:
    if found.job.state == "partial":
        failed = found.stages["evaluations"].failed
        chosen.say(
            f"{failed} of {len(found.arms)} networks could not be made or tested; the report says why. "
            f"Only those again: {server}`synthclone retry {found.job.id}`"
        )


def show_estimate(chosen: Options, found: ExperimentEstimate) -> None:
    if chosen.as_json:
        write_json(found)
        return
    rows = [("draw", known.label, f"{known.images:,} images, {known.drawn_images:,} new") for known in found.datasets]
    for known in found.trainings:
        rows.append(("train", known.trained_on, f"{known.recipe}, seed {known.seed}"))
        rows.append(("test", known.trained_on, f"seed {known.seed} on {sets_in_short(found)}"))
    chosen.show(("job", "what", "how much"), rows)
    write_line(f"{found.jobs} jobs with the report, {found.drawn_images:,} images, {found.gpu_hours:,.2f} GPU hours")
    write_line(f"assumed: {found.assumption}")
    for need in found.needs:
        write_line(f"{need.kind} {need.name}: {need.remedy or 'there'}")


def sets_in_short(found: ExperimentEstimate) -> str:
    """By name where they fit into a row; `needs` names them all."""
    names = (*found.benchmarks, *found.transfer)
    if len(names) <= MOST_NAMES:
        return ", ".join(names)
    return f"{len(found.benchmarks)} test sets and {len(found.transfer)} transfer sets"
