"""The processes of one training: PyTorch's launcher tells each its place; a process started alone is the only one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, NamedTuple

from shared.vision.device import choose_device

import torch
import torch.distributed as dist

# The first rank of each node fetches a whole data set while the others wait.
FETCH_PATIENCE = timedelta(hours=12)
# A dead rank breaks its connections, which ends all at once; this is for those that nothing breaks. The first rank may
# wait for a database or store twice Journal's WAIT_SECONDS while the others stand in the next step.
STEP_PATIENCE = timedelta(minutes=30)
TEXT_BYTES = 2048


class Ranks(NamedTuple):
    """`neighbours` of the `size` ranks are on this rank's machine, itself counted, numbered by `local_rank`.

    `waiting` are the same processes as a group of its own, for what takes long or concerns no device.
    """

    rank: int
    size: int
    device: torch.device
    local_rank: int = 0
    neighbours: int = 1
    waiting: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_first_of_node(self) -> bool:
        return self.local_rank == 0

    def any_of(self, fact: bool) -> bool:
        """Whether the fact holds on any rank; every rank gets the same answer."""
        if self.size == 1:
            return fact
        votes = torch.tensor(int(fact), device=self.device)
        dist.all_reduce(votes)
        return bool(votes.item())

    def same_for_all(self, number: int) -> bool:
        """Whether every rank gave the same number."""
        if self.size == 1:
            return True
        ends = torch.tensor([number, -number], device=self.device)
        dist.all_reduce(ends, dist.ReduceOp.MAX)
        return int(ends[0]) == -int(ends[1])

    def mean(self, number: float) -> float:
        if self.size == 1:
            return number
        total = torch.tensor(number, device=self.device, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total) / self.size

    def told(self, text: str) -> list[str]:
        """What each rank says, in at most TEXT_BYTES; waits for all of them."""
        if self.size == 1:
            return [text]
        letters = torch.tensor(list(text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES)), dtype=torch.uint8)
        found = [torch.empty_like(letters) for _ in range(self.size)]
        dist.all_gather(found, letters, group=self.waiting)
        return [bytes(each.tolist()).decode(errors="ignore").rstrip() for each in found]


@contextmanager
def joined(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Ranks]:
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = rank_device(device)
    if size == 1:
        yield Ranks(rank, size, place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=STEP_PATIENCE)
    try:
        yield Ranks(
            rank,
            size,
            place,
            local_rank=int(os.environ["LOCAL_RANK"]),
            neighbours=int(os.environ["LOCAL_WORLD_SIZE"]),
            waiting=dist.new_group(backend="gloo", timeout=FETCH_PATIENCE),
        )
    finally:
        dist.destroy_process_group()


def rank_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    place = choose_device(device)
    if place.type == "cpu":
        return place
    mine = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(mine)
    return mine
