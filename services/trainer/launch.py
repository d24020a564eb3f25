"""The child's first module: one process per GPU by PyTorch's launcher, or this very process where one is enough."""

import os
import runpy
import sys
from collections.abc import Sequence

import torch

from shared.settings import Settings

RANK = "services.trainer.run"
SHUTDOWN_SECONDS = 50
# The first node waits this long for the others, and each of them for the rest.
JOIN_SECONDS = 600
# The loopback address: a container's own host name need not resolve.
ONE_NODE = ("--standalone", "--local-addr=127.0.0.1")


def process_count(settings: Settings) -> int:
    return 1 if settings.device == "cpu" else max(1, torch.cuda.device_count())


def meeting(settings: Settings) -> tuple[str, ...]:
    """Where the processes of a training find each other, as options of the launcher."""
    if settings.trainer_nodes == 1:
        return ONE_NODE
    host, port = settings.rendezvous_address
    return (
        *(f"--nnodes={settings.trainer_nodes}", f"--node-rank={settings.trainer_node_rank}"),
        *(f"--master-addr={host}", f"--master-port={port}", f"--rdzv-conf=timeout={JOIN_SECONDS}"),
    )


def launcher_command(processes: int, arguments: Sequence[str], meeting: Sequence[str] = ONE_NODE) -> list[str]:
    return [
        sys.executable,
        *("-m", "torch.distributed.run", *meeting),
        *(f"--nproc-per-node={processes}", f"--shutdown-timeout={SHUTDOWN_SECONDS}"),
        *("-m", RANK, *arguments),
    ]


def launch(settings: Settings, arguments: Sequence[str]) -> None:
    count = process_count(settings)
    if count > 1 or settings.trainer_nodes > 1:
        command = launcher_command(count, arguments, meeting(settings))
        os.execv(command[0], command)
    # Loaded only now: what it imports takes seconds, which the launcher's processes would spend again.
    runpy.run_module(RANK, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    launch(Settings(), sys.argv[1:])
