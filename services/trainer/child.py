"""The training process seen from outside: started, watched, and asked to stop in time for its checkpoint."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from shared.endings import Ending
from shared.job_leases import JobLease

logger = logging.getLogger(__name__)
LOOK_SECONDS = 0.2
CHECKPOINT_SECONDS = 60.0
ENDING_FILE = "ending.json"


def run_child(lease: JobLease, stop_events: Sequence[threading.Event], *, module: str) -> Ending:
    """Run one training or probe until it ends by itself or any event asks it to."""
    with tempfile.TemporaryDirectory(prefix=f"{lease.job_id}-") as folder:
        command = [sys.executable, "-m", module, lease.job_id, str(lease.fence), folder]
        # A session of its own: Ctrl-C in a terminal reaches this process alone, which then stops the child in order.
        child = subprocess.Popen(command, start_new_session=True)
        is_stopped = was_stopped(child, stop_events)
        return read_ending(Path(folder)) or Ending(
            is_stopped=is_stopped, crash=None if is_stopped else f"exit code {child.returncode}; see the trainer's log"
        )


def was_stopped(child: subprocess.Popen[bytes], stop_events: Sequence[threading.Event]) -> bool:
    """Wait for the child's end; True when it had to be asked."""
    while child.poll() is None:
        if any(event.is_set() for event in stop_events):
            end(child)
            return True
        stop_events[0].wait(LOOK_SECONDS)
    return False


def end(child: subprocess.Popen[bytes]) -> None:
    """Ask for a checkpoint; a process that does not manage it in time is killed with everything it started."""
    child.terminate()
    try:
        child.wait(CHECKPOINT_SECONDS)
    except subprocess.TimeoutExpired:
        logger.warning("training process killed", extra={"pid": child.pid, "seconds": CHECKPOINT_SECONDS})
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def write_ending(folder: Path, ending: Ending) -> None:
    part = folder / f".{ENDING_FILE}.{os.getpid()}"
    part.write_text(ending.model_dump_json(), encoding="utf-8")
    part.replace(folder / ENDING_FILE)


def read_ending(folder: Path) -> Ending | None:
    file = folder / ENDING_FILE
    return Ending.model_validate_json(file.read_bytes()) if file.is_file() else None
