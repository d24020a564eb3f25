"""Which of torch's attention kernels a GPU uses."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# torch's own order differs between versions. A kernel that cannot take a shape leaves it to the next: the decoder's
# only head, of 512 values, is too wide for the first two.
PREFERRED = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def attention_kernels(device: torch.device) -> AbstractContextManager[object]:
    """While it is open, also for what is compiled then. On a CPU torch's own choice.

    Around what is compiled, not in it: torch keeps no traced graph that opens it for the next process.
    """
    return sdpa_kernel(PREFERRED, set_priority=True) if device.type == "cuda" else nullcontext()
