"""The standalone form: SQLite and a folder, no broker, processes that poll."""

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select, text

from shared.database import Database
from shared.migrate import migrate
from shared.settings import PROJECT_ROOT, Settings
from shared.storage import LocalStore
from shared.tables import Worker
from tests.addresses import free_port
from tests.processes import wait_until

from . import audit
from .audit import changes
from .checker import Findings, attempts, check, unacknowledged
from .client import User
from .cluster import SMALL, make_models
from .model import BATCH_SECONDS, MODEL
from .parts import Orchestrator
from .run import Row, recovery, unrecovered
from .scene import Blow

WORKERS = 2
IMAGES = 64
KILLS = 8


class Machine:
    """The running processes, and the harness's own view of database and objects."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.environment = make_environment(folder, data)
        self.settings = Settings.model_validate({name.lower(): value for name, value in self.environment.items()})
        migrate(self.settings)
        self.database = Database(self.settings.sqlalchemy_url)
        audit.install(self.database)
        self.store = LocalStore(self.settings.objects_dir)
        variables = {f"SYNTHCLONE_{name}": value for name, value in self.environment.items()}
        self.orchestrator = Orchestrator(folder, variables | {BATCH_SECONDS: "0.1"})
        self.orchestrator.module("api", "services.prompt_api")
        self.orchestrator.module("dispatcher", "services.dispatcher")
        for number in range(WORKERS):
            self.orchestrator.module(f"worker-{number}", "tests.faults.stand_in")
        self.user = User(f"http://127.0.0.1:{self.settings.api_port}", key="")
        wait_until(lambda: self.user.get("/readyz"), seconds=90, what="the API")

    def problem_of_a_worker(self) -> str | None:
        with self.database.read() as session:
            return session.scalar(select(Worker.problem).where(Worker.problem.is_not(None)).limit(1))

    def check(self, job_id: str) -> tuple[Findings, list[audit.Change], int]:
        with self.database.read() as session:
            findings = check(session, self.store, job_id, state="succeeded", sights=self.user.sights[job_id])
            findings.problems += unacknowledged(session, self.user.acknowledged)
            integrity = session.scalar(text("PRAGMA integrity_check"))
            if integrity != "ok":
                findings.problems.append(f"PRAGMA integrity_check: {integrity}")
            return findings, changes(session, job_id), attempts(session, job_id)

    def close(self) -> None:
        self.user.close()
        self.orchestrator.close()
        self.database.engine.dispose()


def make_environment(folder: Path, data: Path) -> dict[str, str]:
    return {
        **{name: str(value) for name, value in SMALL.items()},
        "MODE": "standalone",
        "API_PORT": str(free_port()),
        "DATA_DIR": str(data),
        "DATABASE_URL": f"sqlite:///{folder}/rows.db",
        "LEXICON_PATH": str(PROJECT_ROOT / "data/lexicon.json"),
        "MODELS_DIR": str(make_models(folder)),
        "MODELS_FILE": str(folder / "models.json"),
        "DEFAULT_MODEL": MODEL,
        "POLL_SECONDS": "0.2",
        "MAX_ATTEMPTS": str(KILLS + 1),
        "MIN_FREE_BYTES": "300000",
    }


@contextmanager
def machine(data: Path | None = None) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="synthclone-machine-") as folder:
        parts = Machine(Path(folder), data or Path(folder) / "data")
        try:
            yield parts
        except BaseException as error:
            error.add_note(parts.orchestrator.logs())
            raise
        finally:
            parts.close()


def request(seed: int) -> dict[str, object]:
    return {"classes": [{"name": f"thing {number}"} for number in range(5)], "images_per_class": IMAGES, "seed": seed}


def kill_at_random(seed: int) -> Row:
    """kill -9 of any process at any moment, in the middle of a commit too."""
    choice, blows = random.Random(seed), list[Blow]()
    with machine() as parts:
        job_id = parts.user.submit("/datasets", request(seed))
        for _ in range(KILLS):
            time.sleep(choice.uniform(0.2, 1.5))
            choice.choice(list(parts.orchestrator.parts.values())).kill()
            blows.append(Blow.now())
        parts.user.ended(job_id, seconds=150)
        return judge("SQLite standalone: kill -9 at random", parts, job_id, blows, most_attempts=None)


def fill_the_disk(seed: int) -> Row:
    """The workers of a full disk pause and say so, use up no attempt, and go on once there is room."""
    with small_disk() as disk, machine(disk / "data") as parts:
        job_id = parts.user.submit("/datasets", request(seed))
        wait_until(lambda: parts.user.done(job_id) or None, seconds=60, what="the first images")
        ballast = disk / "ballast"
        fill(ballast)
        told = wait_until(
            lambda: parts.problem_of_a_worker() or None, seconds=30, what="a worker that says why it pauses"
        )
        time.sleep(2)
        ballast.unlink()
        blow = Blow.now()
        parts.user.ended(job_id, seconds=150)
        row = judge("disk full on the workers", parts, job_id, [blow], most_attempts=0)
        return row if "free" in told else row._replace(problems=(*row.problems, f"a full disk was called: {told}"))


def can_mount() -> bool:
    """Root may mount, except in most containers."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "tmpfs", folder]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
        return True


@contextmanager
def small_disk() -> Iterator[Path]:
    """Eight megabytes of memory as a file system; needs the right to mount."""
    with tempfile.TemporaryDirectory(prefix="synthclone-disk-") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True, capture_output=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def judge(name: str, parts: Machine, job_id: str, blows: list[Blow], *, most_attempts: int | None) -> Row:
    findings, history, burnt = parts.check(job_id)
    findings.problems += parts.user.surprises
    if most_attempts is not None and burnt > most_attempts:
        findings.problems.append(f"{burnt} attempts were used up, at most {most_attempts} were expected")
    if most_attempts is not None:
        findings.problems += unrecovered(blows, history)
    seconds = [taken for blow in blows if (taken := recovery(blow, history)) is not None]
    counts = (findings.shards, findings.lost, findings.duplicated, findings.wasted)
    return Row(name, len(blows), *counts, max(seconds, default=None), tuple(findings.problems))
