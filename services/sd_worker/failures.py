"""Whose failure it is: that of a batch, of the device under it, or of a model that this machine cannot take."""

import torch


def device_fault(error: RuntimeError, device: torch.device) -> torch.AcceleratorError | None:
    """The error of the device itself, after which its process cannot draw; None for one of the batch.

    Kernels fail after they were launched, so what raises may be a library that was called next and has its own error:
    then the device is asked.
    """
    if isinstance(error, torch.AcceleratorError):
        return error
    if device.type == "cuda" and not isinstance(error, torch.OutOfMemoryError):
        try:
            torch.cuda.synchronize(device)
        except torch.AcceleratorError as fault:
            return fault
    return None
