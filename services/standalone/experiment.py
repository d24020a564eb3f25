"""An experiment from an empty folder, or from where it stopped, to its report in that folder."""

import time
from itertools import count
from pathlib import Path

from rich.console import Console

from client import Client
from client.errors import ApiRefused, JobFailed
from client.models import Experiment
from services.standalone.demo.run import free_port, progress_bars, running
from services.standalone.folder import check_writable
from services.standalone.supervisor import Supervisor
from services.standalone.up import TEND_SECONDS, address
from shared.errors import NotFound
from shared.experiments import ExperimentRequest
from shared.seeds import digest
from shared.settings import Settings

BADLY_ENDED = ("failed", "cancelled")
STAGES = {"datasets": "draw", "trainings": "train", "evaluations": "test"}


def run_experiment(request: ExperimentRequest, folder: Path, console: Console) -> Experiment:
    """Starts the services in `folder` and writes the report beside them; raises JobFailed where there is none."""
    check_writable(folder)
    settings = Settings.model_validate({"data_dir": folder / "data", "api_port": free_port()})
    with running(settings, folder / "services.log", console) as supervisor, Client(address(settings)) as client:
        found = wait(client, once(client, request, folder), supervisor, console)
        if not found.job.ended_well:
            raise JobFailed(found.job)
        client.experiments.save(found.job.id, folder)
    return found


def once(client: Client, request: ExperimentRequest, folder: Path) -> str:
    """The id of the experiment that an earlier run made of the same request, unless it failed; else of a new one."""
    name = digest(request.model_dump(mode="json"))
    # An idempotency key is forgotten after days; it only covers a run that was killed before it wrote the id down.
    note = folder / f"experiment-{name[:16]}.id"
    if note.exists() and (known := find_live(client, note.read_text())) is not None:
        return known
    for attempt in count(1):
        made = client.experiments.submit(request, idempotency_key=f"local-{name}-{attempt}").id
        if (found := find_live(client, made)) is not None:
            write_whole(note, found)
            return found
    raise AssertionError("count() does not end")


def find_live(client: Client, experiment_id: str) -> str | None:
    """None of one that failed, or that a new database in the folder does not know."""
    try:
        job = client.jobs.get(experiment_id)
    except ApiRefused as error:
        if error.status != NotFound.status:
            raise
        return None
    return None if job.state in BADLY_ENDED else job.id


def write_whole(path: Path, text: str) -> None:
    """All of it or nothing, whenever the process ends."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text)
    unfinished.replace(path)


def wait(client: Client, experiment_id: str, supervisor: Supervisor, console: Console) -> Experiment:
    with progress_bars(console) as bars:
        rows = {name: bars.add_task(verb) for name, verb in STAGES.items()}
        while True:
            supervisor.tend()
            found = client.experiments.get(experiment_id)
            for name, row in rows.items():
                bars.update(row, completed=found.stages[name].done, total=found.stages[name].total)
            if found.job.terminal:
                return found
            time.sleep(TEND_SECONDS)
