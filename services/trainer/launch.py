"""The child's first module: one process per GPU by PyTorch's launcher, or this very process where one is enough."""

import os
import sys

import torch

from shared.settings import Settings

from .run import main

SHUTDOWN_SECONDS = 50


def process_count(settings: Settings) -> int:
    return 1 if settings.device == "cpu" else max(1, torch.cuda.device_count())


def launcher_command(processes: int, arguments: list[str]) -> list[str]:
    # The loopback address: a container's own host name need not resolve.
    return [
        sys.executable,
        *("-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"),
        *(f"--nproc-per-node={processes}", f"--shutdown-timeout={SHUTDOWN_SECONDS}"),
        *("-m", "services.trainer.run", *arguments),
    ]


if __name__ == "__main__":
    count = process_count(Settings())
    if count > 1:
        command = launcher_command(count, sys.argv[1:])
        os.execv(command[0], command)
    main(sys.argv[1:])
