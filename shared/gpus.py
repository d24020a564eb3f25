"""GPUs without torch, which takes seconds to load: whether the machine has any, and which one a worker is given."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from .errors import ConfigurationError

VISIBLE = "CUDA_VISIBLE_DEVICES"
# Of NVIDIA's driver on Linux and, the last, on Windows' Linux.
DEVICE_FILES = ("nvidia[0-9]*", "dxg")
COUNT = "import torch; print(torch.cuda.device_count())"
COUNT_SECONDS = 120


def driver_files(folder: Path = Path("/dev")) -> list[str]:
    """The files of a GPU driver; none on a machine without one."""
    return sorted(str(file) for pattern in DEVICE_FILES for file in folder.glob(pattern))


def are_hidden(environment: Mapping[str, str]) -> bool:
    """The operator wants no GPU to be seen."""
    return environment.get(VISIBLE, "0").strip() in ("", "-1")


def nth_gpu(number: int, environment: Mapping[str, str]) -> str:
    """What CUDA_VISIBLE_DEVICES must be for a process that shall see the GPU of this number, from 0, and no other.

    Raises ConfigurationError where the operator shows fewer.
    """
    if VISIBLE not in environment:
        return str(number)
    shown = [name.strip() for name in environment[VISIBLE].split(",")]
    if number >= len(shown):
        raise ConfigurationError(
            f"worker {number + 1} has no GPU: {VISIBLE}={environment[VISIBLE]} shows {len(shown)}; "
            "start as many workers"
        )
    return shown[number]


def count_gpus(environment: Mapping[str, str]) -> int:
    """What torch sees, asked in a process of its own so that this one stays small."""
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=COUNT_SECONDS)
    if done.returncode != 0:
        raise ConfigurationError(f"torch cannot be loaded to count the GPUs: {done.stderr.strip()[-500:]}")
    return int(done.stdout)
