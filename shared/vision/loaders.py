"""How many processes may read images ahead: as many as have cores, and as their batches fit into shared memory."""

import os
import shutil
from pathlib import Path

MOST_LOADERS = 8
# Batches that each loader may have ready or under way; half of the shared memory stays for others, such as NCCL.
PREFETCHED = 1
SHARED_MEMORY = Path("/dev/shm")


def loader_count(batch_bytes: int, *, ranks: int = 1) -> int:
    """Of each of `ranks` processes on this machine; 0, which reads in the process itself, where not one batch fits."""
    cores = len(os.sched_getaffinity(0)) // ranks
    room = shutil.disk_usage(SHARED_MEMORY).free // 2 // ranks
    # One batch is made while another waits.
    fitting = room // max(1, batch_bytes * (PREFETCHED + 1))
    return max(0, min(MOST_LOADERS, cores, fitting))
