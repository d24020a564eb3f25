import numpy as np
import pytest
import torch

from services.trainer.batches import Part, Stream, batches, epoch_order
from services.trainer.images import MemoryImages
from shared.recipes import PLAIN, CropRecipe, TrainingRecipe


def recipe(**changes: object) -> TrainingRecipe:
    return PLAIN.model_copy(update={"flip": False} | changes)


def stream(count: int, *, batch_size: int, steps: int) -> Stream:
    """Image i is flat with level i and label i; crops of 16 pixels keep part of it."""
    images = [torch.full((3, 16, 16), index, dtype=torch.uint8) for index in range(count)]
    return Stream(MemoryImages(np.arange(count), images), 7, 16, recipe(batch_size=batch_size), steps, (Part(count),))


def seen(data: Stream, *, start: int = 0, rank: int = 0, ranks: int = 1) -> list[list[int]]:
    return [batch.labels.tolist() for batch in batches(data, start=start, rank=rank, ranks=ranks)]


def test_every_epoch_shows_each_image_once_in_an_order_of_its_own() -> None:
    flat = [label for batch in seen(stream(10, batch_size=4, steps=5)) for label in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]


def test_a_batch_goes_on_into_the_next_epoch() -> None:
    assert [len(batch) for batch in seen(stream(5, batch_size=4, steps=3))] == [4, 4, 4]


def test_a_resumed_stream_continues_in_the_middle_of_an_epoch() -> None:
    data = stream(10, batch_size=4, steps=6)
    assert seen(data, start=2) == seen(data)[2:]


def test_the_parts_of_a_step_are_the_batch_of_its_rank_in_its_order() -> None:
    data = stream(12, batch_size=12, steps=2)
    parts = data._replace(recipe=recipe(batch_size=12, accumulate=3))
    whole, apart = seen(data, rank=1, ranks=2), seen(parts, rank=1, ranks=2)
    assert [len(part) for part in apart] == [2] * 6
    assert [first + second + third for first, second, third in (apart[:3], apart[3:])] == whole


def test_a_stream_in_parts_resumes_at_a_whole_step() -> None:
    data = stream(12, batch_size=4, steps=3)._replace(recipe=recipe(batch_size=4, accumulate=2))
    assert seen(data, start=1) == seen(data)[2:]


def test_ranks_share_each_batch_without_overlap() -> None:
    data = stream(10, batch_size=4, steps=5)
    shares = zip(seen(data, rank=0, ranks=2), seen(data, rank=1, ranks=2), strict=True)
    assert [sorted(a + b) for a, b in shares] == [sorted(batch) for batch in seen(data)]


@pytest.mark.parametrize("other", [(8, 0), (7, 1)])
def test_the_order_depends_on_seed_and_epoch(other: tuple[int, int]) -> None:
    assert epoch_order((Part(10),), 7, 0).tolist() != epoch_order((Part(10),), *other).tolist()


def test_a_mixture_takes_its_shares_in_every_epoch_and_uses_each_part_evenly() -> None:
    """Ten images and thirty: half of each epoch of forty comes from the ten."""
    parts = (Part(10, 0.5), Part(30, 0.5))
    epochs = [epoch_order(parts, 7, epoch) for epoch in range(3)]
    for order in epochs:
        assert len(order) == 40
        assert np.bincount(order, minlength=40)[:10].tolist() == [2] * 10
        assert (order >= 10).sum() == 20
    # Sixty places of the thirty: each came twice.
    assert np.bincount(np.concatenate(epochs), minlength=40)[10:].tolist() == [2] * 30
    assert epochs[0].tolist() != epochs[1].tolist()


def test_shares_are_met_to_the_nearest_image() -> None:
    order = epoch_order((Part(5, 1 / 3), Part(5, 2 / 3)), 7, 0)
    assert ((order < 5).sum(), (order >= 5).sum()) == (3, 7)


def test_an_image_is_moved_anew_in_every_epoch_but_alike_in_every_run() -> None:
    image = torch.arange(3 * 16 * 16).reshape(3, 16, 16).to(torch.uint8)
    data = Stream(MemoryImages(np.zeros(1, np.int64), [image]), 7, 16, recipe(batch_size=1), 8, (Part(1),))
    first, second = ([batch.images for batch in batches(data, start=0, rank=0, ranks=1)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(images, first[0]) for images in first)


CROPS = (CropRecipe(size=16, count=1), CropRecipe(size=16, count=2, scale=(0.05, 0.25), blur=0.5))


def uneven(batch_size: int) -> Stream:
    """Images of sizes of their own, of which crops are made."""
    images = [torch.full((3, 20 + index, 30 - index), index, dtype=torch.uint8) for index in range(6)]
    cropped = recipe(batch_size=batch_size, crops=CROPS)
    return Stream(MemoryImages(np.arange(6), images), 7, 16, cropped, 12 // batch_size, (Part(6),))


def drawn(batch_size: int) -> dict[tuple[int, int], list[list[list[int]]]]:
    """Boxes of both crop recipes by label and how often it came."""
    boxes: dict[tuple[int, int], list[list[list[int]]]] = {}
    for batch in batches(uneven(batch_size), start=0, rank=0, ranks=1):
        for place, label in enumerate(batch.labels.tolist()):
            turn = sum(known == label for known, _ in boxes)
            boxes[label, turn] = [draws.boxes[:, place].tolist() for draws in batch.draws]
    return boxes


def test_crops_are_drawn_for_an_image_whatever_batch_it_is_in() -> None:
    assert drawn(4) == drawn(3)
    assert len(drawn(4)) == 12
    assert drawn(4)[2, 0] != drawn(4)[2, 1]


def test_images_that_are_cropped_later_come_whole_and_padded() -> None:
    first = next(iter(batches(uneven(6), start=0, rank=0, ranks=1)))
    assert first.images.shape == (6, 3, 25, 30)
    for image, label in zip(first.images, first.labels.tolist(), strict=True):
        assert bool((image[:, : 20 + label, : 30 - label] == label).all())
    assert [draws.boxes.shape for draws in first.draws] == [(1, 6, 4), (2, 6, 4)]


def test_each_rank_draws_what_one_alone_would() -> None:
    whole = next(iter(batches(uneven(6), start=0, rank=0, ranks=1)))
    shares = [next(iter(batches(uneven(6), start=0, rank=rank, ranks=2))) for rank in range(2)]
    for rank, share in enumerate(shares):
        assert share.labels.tolist() == whole.labels[rank::2].tolist()
        assert share.draws[1].boxes.tolist() == whole.draws[1].boxes[:, rank::2].tolist()


def test_rounded_shares_still_fill_every_epoch() -> None:
    order = epoch_order(tuple(Part(400, 0.3333333) for _ in range(3)), 7, 0)
    assert sorted(order.tolist()) == list(range(1200))


def test_shares_that_fall_short_of_one_leave_no_hole_in_a_large_epoch() -> None:
    assert (
        len(epoch_order(tuple(Part(1_000_000, share) for share in (0.333333, 0.333333, 0.3333333)), 7, 0)) == 3_000_000
    )
