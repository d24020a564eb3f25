"""The processes of one training: PyTorch's launcher tells each its place; a process started alone is the only one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from shared.vision.device import choose_device

import torch
import torch.distributed as dist


class Ranks(NamedTuple):
    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def any_of(self, fact: bool) -> bool:
        """Whether the fact holds on any rank; every rank gets the same answer."""
        if self.size == 1:
            return fact
        votes = torch.tensor(int(fact), device=self.device)
        dist.all_reduce(votes)
        return bool(votes.item())


@contextmanager
def joined(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Ranks]:
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = rank_device(device)
    if size > 1:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(rank, size, place)
    finally:
        if size > 1:
            dist.destroy_process_group()


def rank_device(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    place = choose_device(device)
    if place.type == "cpu":
        return place
    mine = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(mine)
    return mine
