"""Where compiled kernels are kept from one process to the next."""

import hashlib
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from shared.errors import ConfigurationError


def keep_kernels(parent: Path, device: torch.device, batch: int) -> Path:
    """Tells torch and Triton to keep what they compile in a folder of `parent`; returns it.

    Both read these variables when they compile, not when they are imported. Raises ConfigurationError.
    """
    folder = parent / kernels_key(device_name(device), versions(), batch, code_digest())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"compiled kernels cannot be kept in {folder} ({error.strerror}); mount a volume this user can write at "
            "SYNTHCLONE_DATA_DIR, or set SYNTHCLONE_COMPILE=off, which draws more slowly"
        ) from error
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    return folder


def kernels_key(device: str, found: dict[str, str], batch: int, digest: str) -> str:
    parts = [device, *(f"{name}-{number}" for name, number in found.items()), f"batch-{batch}", digest[:12]]
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", "_".join(parts))


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Of everything a kernel or its choice can depend on."""
    cudnn = torch.backends.cudnn.version()
    return {
        "torch": torch.__version__,
        "triton": triton_version(),
        "cudnn": "none" if cudnn is None else str(cudnn),
        "diffusers": version("diffusers"),
    }


def triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:  # it comes with torch for GPUs
        return "none"


def code_digest(folder: Path = Path(__file__).parent) -> str:
    """sha256 over the names and texts of the engine's modules."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        total.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()
