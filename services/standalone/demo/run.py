"""The demo from an empty folder, or from where it stopped, to a report."""

import os
import platform
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from shared.vision.digits import train_digits

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client import Client
from client.models import Job
from services.standalone.folder import check_writable
from services.standalone.supervisor import Supervisor
from services.standalone.up import TEND_SECONDS, address, await_ready, services
from shared.settings import Settings

from .chain import Branch, ask, jobs_of, read_row
from .figures import Column, decoded, draw_bars, draw_samples
from .plan import DemoPlan
from .report import Report, findings, markdown

PHASES = {"dataset": "draw", "training": "train", "evaluation": "test"}
LIBRARIES = ("synthclone", "torch", "timm", "diffusers")
SAMPLES_PER_CLASS = 5


def run_demo(plan: DemoPlan, folder: Path, console: Console) -> Report:
    """Starts the services in `folder`, goes through the plan as their client, and writes the report beside them."""
    check_writable(folder)
    settings = Settings.model_validate({"data_dir": folder / "data", "api_port": free_port()})
    with running(settings, folder / "services.log", console) as supervisor, Client(address(settings)) as client:
        branches = ask(client, plan)
        jobs = wait(client, branches, supervisor, console)
        report = make_report(client, plan, branches, jobs)
        columns = [*(synthetic_samples(client, branch) for branch in branches if branch.dataset), real_samples()]
        write(report, columns, folder)
    return report


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(settings: Settings, log_path: Path, console: Console) -> Iterator[Supervisor]:
    console.print(f"starting the services; they log to {log_path}", markup=False, soft_wrap=True)
    with log_path.open("ab") as log, services(settings, log=log) as supervisor:
        await_ready(address(settings), supervisor, threading.Event())
        yield supervisor


def wait(client: Client, branches: Sequence[Branch], supervisor: Supervisor, console: Console) -> list[Job]:
    """All jobs once they ended well; raises JobFailed as soon as one did not."""
    with progress_bars(console) as bars:
        rows = {kind: bars.add_task(verb) for kind, verb in PHASES.items()}
        while True:
            supervisor.tend()
            jobs = list(jobs_of(client, branches))
            for kind, row in rows.items():
                counts = [job.counts for job in jobs if job.kind == kind]
                bars.update(row, completed=sum(c.done for c in counts), total=sum(c.total for c in counts))
            if all(job.terminal for job in jobs):
                return jobs
            time.sleep(TEND_SECONDS)


def progress_bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:5}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def make_report(client: Client, plan: DemoPlan, branches: Sequence[Branch], jobs: Sequence[Job]) -> Report:
    rows = tuple(read_row(client, branch) for branch in branches)
    return Report(
        rows=rows,
        setup=plan.words,
        seconds={verb: covered_seconds([job for job in jobs if job.kind == kind]) for kind, verb in PHASES.items()},
        machine=machine(),
        versions={"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        findings=findings(rows),
    )


def covered_seconds(jobs: Sequence[Job]) -> float:
    """Time in which at least one of the jobs ran: phases overlap, and a resumed demo stands still in between."""
    spans = sorted((job.started_at, job.finished_at) for job in jobs if job.started_at and job.finished_at)
    seconds, end = 0.0, datetime.min.replace(tzinfo=UTC)
    for started, finished in spans:
        seconds += max(0.0, (finished - max(started, end)).total_seconds())
        end = max(end, finished)
    return round(seconds, 1)


def machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {device}"


def synthetic_samples(client: Client, branch: Branch) -> Column:
    assert branch.dataset is not None
    dataset = client.datasets.get(branch.dataset)
    classes = [
        [
            decoded(client.datasets.image(branch.dataset, known.id, slot))
            for slot in range(min(SAMPLES_PER_CLASS, known.total))
        ]
        for known in dataset.classes
    ]
    return Column(branch.label, classes)


def real_samples() -> Column:
    images, labels = train_digits()
    return Column("real", [list(images[labels == digit][:SAMPLES_PER_CLASS]) for digit in range(10)])


def write(report: Report, columns: Sequence[Column], folder: Path) -> None:
    draw_bars(report.rows, folder / "figure.png")
    draw_samples(columns, [str(digit) for digit in range(10)], folder / "samples.png")
    (folder / "report.md").write_text(markdown(report))
    (folder / "report.json").write_text(report.model_dump_json(indent=2) + "\n")
