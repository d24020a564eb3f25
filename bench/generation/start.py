"""How long a worker needs until its first images, in this process or in one of its own.

`python -m bench.generation.start FOLDER DATA [--tiny]` is the latter; compiled kernels are kept in the folder DATA.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from services.sd_worker.machine import machine_of
from shared.settings import PROJECT_ROOT, Settings

from .arms import Ours
from .device import seconds_of
from .plan import FULL, TINY, Plan, batch


class Started(NamedTuple):
    ours: Ours
    seconds: dict[str, float]


def start(folder: Path, data: Path, plan: Plan) -> Started:
    """Loads the model and draws one batch, which compiles where a worker compiles."""
    settings = Settings(device="cpu" if plan.is_tiny else "cuda", batch_size=plan.ours, data_dir=data)
    began = time.perf_counter()
    ours = Ours("B", folder, machine_of(settings), plan.recipe)
    loaded = time.perf_counter() - began
    first = seconds_of(lambda: ours.draw([batch(ours.batch)]), plan.device)
    return Started(ours, {"load": round(loaded, 1), "first_batch": round(first, 1)})


def start_apart(folder: Path, data: Path, plan: Plan, *, limit_seconds: float) -> dict[str, float] | None:
    """In a process of its own; None where it took longer than the limit."""
    given = [str(folder), str(data), *(["--tiny"] if plan.is_tiny else [])]
    command = [sys.executable, "-m", "bench.generation.start", *given]
    began = time.perf_counter()
    try:
        answer = subprocess.run(
            command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=limit_seconds
        )
    except subprocess.TimeoutExpired:
        return None
    seconds: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return seconds | {"process": round(time.perf_counter() - began, 1)}


if __name__ == "__main__":
    given_folder, given_data = map(Path, sys.argv[1:3])
    print(json.dumps(start(given_folder, given_data, TINY if "--tiny" in sys.argv else FULL).seconds))
