"""What this device can do at most, and how it is doing."""

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable

import torch

from services.sd_worker.flops import wait_for

COPIES = 20
# Not "clocks.max" and the like: what it was at while this ran.
WATCHED = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def copy_rate(size_bytes: int, device: torch.device) -> float:
    """Bytes/s within the device's memory, read and written ones together: the median of some copies."""
    source = torch.randint(0, 256, (size_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size_bytes / statistics.median(seconds_of(lambda: target.copy_(source), device) for _ in range(COPIES))


def reading() -> dict[str, str] | None:
    """Clocks, power and temperature; None where there is no nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={','.join(WATCHED)}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    return dict(zip(WATCHED, answer.splitlines()[0].split(", "), strict=True))


class Memory:
    """Peak bytes of a piece of work beyond what others hold at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_counted = device.type == "cuda"
        self._held = 0
        if self._is_counted:
            torch.cuda.reset_peak_memory_stats(device)
            self._held = torch.cuda.memory_allocated(device)

    def peak(self) -> int | None:
        """None on a CPU, whose memory torch does not count."""
        return torch.cuda.max_memory_allocated(self._device) - self._held if self._is_counted else None
