"""What `synthclone doctor` says of this machine's devices, and of how a worker would draw with them."""

from typing import TYPE_CHECKING

from shared.settings import Settings

if TYPE_CHECKING:
    from services.sd_worker.machine import Machine

GIB = 2**30


def check_device(settings: Settings) -> str:
    from shared.vision.device import choose_device

    import torch

    if choose_device(settings.device).type != "cuda":
        return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
    shown = ", ".join(describe_gpu(number) for number in range(torch.cuda.device_count()))
    return f"{shown}; torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def describe_gpu(number: int) -> str:
    import torch

    free, total = torch.cuda.mem_get_info(number)
    name = torch.cuda.get_device_name(number)
    return f"GPU {number} {name} with {total / GIB:.0f} GiB, {free / GIB:.0f} GiB free"


def check_drawing(settings: Settings) -> str:
    """The batch of a worker here, and its folder of compiled kernels."""
    from services.sd_worker.machine import machine_of

    machine = machine_of(settings)
    chosen = "SYNTHCLONE_BATCH_SIZE" if settings.batch_size else "as suits the device"
    compiled = "nothing is compiled" if machine.backend is None else describe_kernels(machine)
    return f"batches of {machine.batch} images ({chosen}); {compiled}"


def describe_kernels(machine: "Machine") -> str:
    from services.sd_worker.engine.kernels import code_digest, device_name, kernels_key, versions

    folder = machine.kernels_dir / kernels_key(device_name(machine.device), versions(), machine.batch, code_digest())
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    if not sizes:
        return f"no compiled kernels in {folder} yet: the first start takes minutes"
    return f"compiled kernels in {folder}: {len(sizes):,} files, {sum(sizes) / 1e6:.1f} MB"
