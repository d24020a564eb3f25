from collections import deque

from services.sd_worker.encoding import Encoded
from services.sd_worker.gate import Verdict
from services.sd_worker.generate import ShardWork, Slot, next_batch
from shared.classes import ClassText
from shared.leases import ShardLease
from shared.prompts import PromptSpec
from shared.shards import pack, unpack
from tests.rows import RECIPE

TEXT = ClassText(id="n02012849", names=("crane",), hypernym="wading bird", description="large long-necked bird")
GOOD = Encoded(Verdict(None, 100.0, 50.0), b"\xff\xd8 a picture")
BAD = Encoded(Verdict("black", 0.0, 0.0), b"")


def work(shard_id: int = 1, *, start: int = 0, stop: int = 4, prompt: str = "background") -> ShardWork:
    recipe = RECIPE.model_copy(update={"prompt": PromptSpec(kind=prompt)})  # type: ignore[arg-type]
    lease = ShardLease(shard_id, 1, recipe.digest, "n02012849-0123456789ab", TEXT.id, TEXT.model_dump(), start, stop)
    return ShardWork(lease, recipe, "digits-sd")


def test_a_slot_is_drawn_the_same_in_any_shard_that_holds_it() -> None:
    slot = Slot(1, 3, 0)
    assert work(start=0, stop=4).drawing(slot) == work(start=3, stop=100).drawing(slot)


def test_slots_and_attempts_have_prompts_and_seeds_of_their_own() -> None:
    shard = work()
    drawings = [shard.drawing(Slot(1, slot, attempt)) for slot in range(4) for attempt in range(2)]
    assert len({drawing.seed for drawing in drawings}) == 8
    assert len({drawing.prompt.background for drawing in drawings}) > 4


def test_batches_span_shards_in_order() -> None:
    queue = deque([*work(1, stop=3).slots(), *work(2, stop=3).slots()])
    assert [(slot.shard_id, slot.slot) for slot in next_batch(queue, 4)] == [(1, 0), (1, 1), (1, 2), (2, 0)]
    assert len(next_batch(queue, 4)) == 2


def test_a_rejected_slot_is_drawn_again_with_the_next_attempt() -> None:
    shard = work(stop=2)
    first, second = shard.slots()
    assert shard.take(first, shard.drawing(first), GOOD) is None
    assert shard.take(second, shard.drawing(second), BAD) == Slot(1, 1, 1)
    assert shard.rejections == {"black": 1}
    assert not shard.is_complete


def test_a_slot_rejected_to_the_last_attempt_is_short_and_the_shard_complete() -> None:
    shard = work(stop=1)
    slot: Slot | None = next(iter(shard.slots()))
    while slot is not None:
        slot = shard.take(slot, shard.drawing(slot), BAD)
    assert shard.short == [0]
    assert shard.rejections == {"black": RECIPE.gate.max_attempts}
    assert shard.is_complete


def test_metadata_is_enough_to_draw_the_image_again() -> None:
    shard = work(stop=1, prompt="description")
    slot = next(iter(shard.slots()))
    shard.take(slot, shard.drawing(slot), GOOD)
    ((number, jpeg, metadata),) = unpack(pack(shard.samples()))
    assert (number, jpeg) == (0, GOOD.jpeg)
    expected = {"prompt": "crane, large long-necked bird", "seed": shard.drawing(slot).seed, "steps": 2, "attempt": 0}
    assert expected.items() <= metadata.items()
    assert metadata["key"] == "n02012849_00000000"


def test_a_shard_has_the_same_bytes_in_whatever_order_its_images_came() -> None:
    shards = [work(stop=3), work(stop=3)]
    for shard, order in zip(shards, [(0, 1, 2), (2, 0, 1)], strict=True):
        for number in order:
            slot = Slot(1, number, 0)
            shard.take(slot, shard.drawing(slot), GOOD)
    first, second = (pack(shard.samples()) for shard in shards)
    assert first == second
