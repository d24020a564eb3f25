import numpy as np
import pytest
import torch

from services.trainer.batches import Stream, batches, epoch_order
from services.trainer.images import MemoryImages


def stream(count: int, *, batch_size: int, steps: int) -> Stream:
    """Image i is flat with level i and label i; crops of 16 pixels keep part of it."""
    images = [torch.full((3, 16, 16), index, dtype=torch.uint8) for index in range(count)]
    return Stream(MemoryImages(np.arange(count), images), 7, 16, False, batch_size, steps)


def seen(data: Stream, *, start: int = 0, rank: int = 0, ranks: int = 1) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches(data, start=start, rank=rank, ranks=ranks)]


def test_every_epoch_shows_each_image_once_in_an_order_of_its_own() -> None:
    flat = [label for batch in seen(stream(10, batch_size=4, steps=5)) for label in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]


def test_a_batch_goes_on_into_the_next_epoch() -> None:
    assert [len(batch) for batch in seen(stream(5, batch_size=4, steps=3))] == [4, 4, 4]


def test_a_resumed_stream_continues_in_the_middle_of_an_epoch() -> None:
    data = stream(10, batch_size=4, steps=6)
    assert seen(data, start=2) == seen(data)[2:]


def test_ranks_share_each_batch_without_overlap() -> None:
    data = stream(10, batch_size=4, steps=5)
    shares = zip(seen(data, rank=0, ranks=2), seen(data, rank=1, ranks=2), strict=True)
    assert [sorted(a + b) for a, b in shares] == [sorted(batch) for batch in seen(data)]


@pytest.mark.parametrize("other", [(10, 8, 0), (10, 7, 1)])
def test_the_order_depends_on_seed_and_epoch(other: tuple[int, int, int]) -> None:
    assert epoch_order(10, 7, 0).tolist() != epoch_order(*other).tolist()


def test_an_image_is_moved_anew_in_every_epoch_but_alike_in_every_run() -> None:
    image = torch.arange(3 * 16 * 16).reshape(3, 16, 16).to(torch.uint8)
    data = Stream(MemoryImages(np.zeros(1, np.int64), [image]), 7, 16, False, 1, 8)
    first, second = ([images for images, _ in batches(data, start=0, rank=0, ranks=1)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(images, first[0]) for images in first)
