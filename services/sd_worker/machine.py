"""What a generating worker has to draw with: its device, how many images it draws at once, and its compiler."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shared.vision.device import choose_device

import torch

from shared.models import DType
from shared.settings import Settings

from .engine.choices import Timing, gpu_clock
from .engine.launching import why_not
from .engine.memory import Needs

CPU_BATCH = 32
SMALLEST_BATCH, USUAL_BATCH, LARGEST_BATCH = 24, 32, 48
# Of Stable Diffusion 1.4 in half precision at 512 x 512, guided; what a model needs is checked when it is loaded.
USUAL_PIXELS = 512 * 512
USUAL_WEIGHTS, USUAL_NEEDS = 2_132_470_614, Needs(step=185_945_600, decode=402_653_184)
USABLE = 0.9  # of a GPU's memory: kernels, their work space and the display take some


class Machine(NamedTuple):
    """`backend` compiles what is computed again and again and keeps its kernels in a folder of `kernels_dir`; None:
    nothing is compiled, and batches may have any size. `dtype` is the model card's; None: what suits the device.
    `timing` compares the ways to compute an operation; None, for the reason in `untimed`: torch's own are taken.
    """

    device: torch.device
    batch: int
    kernels_dir: Path
    backend: str | Callable[..., object] | None = None
    dtype: DType | None = None
    timing: Timing | None = None
    untimed: str = "nothing is compiled"


def machine_of(settings: Settings) -> Machine:
    device = choose_device(settings.device)
    is_compiled = settings.compile == "on" or (settings.compile == "auto" and device.type == "cuda")
    batch = settings.batch_size or usual_batch(device)
    if not is_compiled:
        return Machine(device, batch, settings.kernels_dir)
    reason = why_not(device) if settings.fused_kernels == "auto" else "SYNTHCLONE_FUSED_KERNELS is off"
    return Machine(
        device,
        batch,
        settings.kernels_dir,
        "inductor",
        timing=Timing(gpu_clock) if reason is None else None,
        untimed=reason or "",
    )


def usual_batch(device: torch.device) -> int:
    if device.type != "cuda":
        return CPU_BATCH
    card = torch.cuda.get_device_properties(device)
    return batch_within(int(USABLE * card.total_memory), most=batch_for(card.multi_processor_count))


def batch_for(multiprocessors: int) -> int:
    """Images B whose guided pairs leave no multiprocessor idle in the last wave of a matrix product.

    2 B samples at 16 x 16 have 4 B tiles of 128 rows, and more in each level above by whole factors.
    """
    even = (each for each in range(SMALLEST_BATCH, LARGEST_BATCH + 1) if 4 * each % multiprocessors == 0)
    return next(even, USUAL_BATCH)


def batch_within(memory: int, *, most: int) -> int:
    """At least 1: whether that fits is seen when a model is loaded."""
    return max(1, USUAL_NEEDS.largest_batch(memory - USUAL_WEIGHTS, most=most, pixels=USUAL_PIXELS))
