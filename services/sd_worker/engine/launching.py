"""Triton, where it is and can be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

from .choices import Unfit

LEAST_CAPABILITY = (8, 0)  # Ampere: copies to shared memory beside the arithmetic


@cache
def programs() -> ModuleType:
    """Imported when they are started: Triton comes with torch for GPUs alone."""
    return import_module(f"{__package__}.programs")


def why_not(device: torch.device) -> str | None:
    """Why the kernels of programs.py are not tried there; None where they are."""
    if device.type != "cuda":
        return f"the device is {device.type!r}"
    if torch.version.hip is not None:
        return "they were written for NVIDIA's GPUs"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    return None


@contextmanager
def unfit() -> Iterator[None]:
    """Triton's own errors, such as too little shared memory, become Unfit."""
    try:
        yield
    except programs().TritonError as error:
        raise Unfit(f"{type(error).__name__}: {error}") from error
