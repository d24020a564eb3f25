"""Where networks compute."""

import logging
import os
from collections.abc import Sequence
from typing import Literal

import torch

from shared.errors import ConfigurationError
from shared.gpus import are_hidden, driver_files

logger = logging.getLogger(__name__)


def choose_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Settings.device as torch says it; where a GPU is meant to be used and is not seen, never a slow run on the CPU.

    Raises ConfigurationError.
    """
    if device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if device == "cuda":
        raise ConfigurationError("SYNTHCLONE_DEVICE is cuda but torch sees no GPU; set it to auto or cpu")
    if not are_hidden(os.environ):
        refuse_unseen(driver_files(), build=torch.version.cuda)
    return torch.device("cpu")


def refuse_unseen(files: Sequence[str], *, build: str | None) -> None:
    """A GPU's driver is here: a torch that is made for it (`build` is its CUDA version) must see it."""
    if not files:
        return
    if build is None:
        logger.warning(
            "this machine has a GPU that torch was not built for; it computes on the CPU",
            extra={"files": files, "torch": torch.__version__, "remedy": "install torch's CUDA build"},
        )
        return
    raise ConfigurationError(
        f"{', '.join(files)} say that this machine has a GPU, but torch {torch.__version__} (CUDA {build}) sees none: "
        "is the driver too old for it, is the GPU lost (nvidia-smi tells)? For the CPU set SYNTHCLONE_DEVICE=cpu"
    )
