"""A polling worker whose device fails in its second batch: `python -m tests.sd_worker.broken_device`."""

from collections.abc import Sequence

import torch

from services.sd_worker.worker import ShardWorker
from shared.tasks import run_polling

from .devices import Device


def fail(step: str, prompts: Sequence[str]) -> None:
    if step == "wait 1":
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


if __name__ == "__main__":
    run_polling(lambda settings: ShardWorker(settings, make_generator=Device(fail).make))
