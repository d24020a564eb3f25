"""Where networks compute."""

from typing import Literal

import torch

from shared.errors import ConfigurationError


def choose_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Settings.device as torch says it; asking for a GPU that is not there is an error, never a slow run on the CPU."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ConfigurationError("SYNTHCLONE_DEVICE is cuda but torch sees no GPU; set it to auto or cpu")
    return torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
