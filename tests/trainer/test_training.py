import hashlib
import json
import re
import threading
from pathlib import Path

from shared.vision.networks import EncoderCard

import pytest
import torch
from safetensors.torch import load
from sqlalchemy import select, update

from services.trainer.basis import refuse_other
from services.trainer.fit import refuse_broken_weights
from services.trainer.learner import create_learner
from services.trainer.ranks import Ranks
from services.trainer.run import Place, train
from services.trainer.sources import open_source, open_stream
from shared.errors import CorruptObject, LostLease, Rejected
from shared.job_leases import JobLease
from shared.recipes import PLAIN
from shared.tables import Job, JsonObject, Metric

from .pickles import hostile_pickle
from .rows import DIGITS, Shard, add_dataset, add_training, claim, flat, read_job, spec_of, tiny_request


def run(place: Place, ranks: Ranks, lease: JobLease, stop: threading.Event | None = None) -> JsonObject | None:
    return train(place, lease, ranks, stop or threading.Event())


def weights(place: Place, result: JsonObject | None) -> dict[str, torch.Tensor]:
    assert result is not None
    loaded: dict[str, torch.Tensor] = load(place.store.get(str(result["encoder_key"])))
    return loaded


def add_resumed(place: Place, other: str, **fields: object) -> str:
    """A training that starts where the checkpoint of another one is."""
    row = add_training(place.database, tiny_request(**fields))
    with place.database.write() as session:
        session.execute(update(Job).where(Job.id == row).values(checkpoint=read_job(place.database, other).checkpoint))
    return row


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_training_ends_with_the_very_same_weights(place: Place, alone: Ranks, optimizer: str) -> None:
    fields = {"steps": 40, "checkpoint_steps": 20, "optimizer": optimizer, "learning_rate": 0.01}
    straight = add_training(place.database, tiny_request(**fields))
    expected = weights(place, run(place, alone, claim(place.database)))
    resumed = add_resumed(place, straight, **fields)
    lease = claim(place.database)

    found = weights(place, run(place, alone, lease))

    assert lease.job_id == resumed
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with place.database.read() as session:
        assert session.scalars(select(Metric.step).where(Metric.job_id == resumed)).first() == 30


def test_a_checkpoint_of_another_recipe_or_other_data_is_refused_with_the_difference(
    place: Place, alone: Ranks
) -> None:
    fields = {"steps": 20, "checkpoint_steps": 10, "learning_rate": 0.01}
    first = add_training(place.database, tiny_request(**fields))
    run(place, alone, claim(place.database))
    add_resumed(place, first, **fields | {"learning_rate": 0.02, "seed": 7})
    with pytest.raises(Rejected, match=r"seed 0 then, 7 now; learning_rate 0\.01 then, 0\.02 now; submit"):
        run(place, alone, claim(place.database))

    basis: JsonObject = {"images": 1257, "labels": "a" * 64, "recipe": PLAIN.model_dump(mode="json")}
    refuse_other(basis, basis)
    fields = PLAIN.model_dump(mode="json", exclude={"compile", "accumulate"})
    refuse_other(basis | {"recipe": fields}, basis)  # as a version before those fields wrote it
    with pytest.raises(Rejected, match=r"images 1257 then, 1250 now; their labels in order aaaaaaaa\.\.\. then, bb"):
        refuse_other(basis, basis | {"images": 1250, "labels": "b" * 64})


def test_a_damaged_checkpoint_means_starting_again(place: Place, alone: Ranks) -> None:
    fields = {"steps": 20, "checkpoint_steps": 10}
    first = add_training(place.database, tiny_request(**fields))
    expected = weights(place, run(place, alone, claim(place.database)))
    checkpoint = read_job(place.database, first).checkpoint
    assert checkpoint is not None
    place.store.put(str(checkpoint["key"]), b"damaged")
    add_resumed(place, first, **fields)

    found = weights(place, run(place, alone, claim(place.database)))

    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_checkpoint_that_is_a_pickle_is_never_loaded(place: Place, alone: Ranks, tmp_path: Path) -> None:
    """Its hash is right, so only the format gives it away."""
    trace = tmp_path / "was run"
    data = hostile_pickle(trace)
    place.store.put("pickle", data)
    row = add_training(place.database, tiny_request(steps=10))
    checkpoint = {"key": "pickle", "sha256": hashlib.sha256(data).hexdigest(), "step": 9, "seconds": 1.0}
    with place.database.write() as session:
        session.execute(update(Job).where(Job.id == row).values(checkpoint=checkpoint))

    result = run(place, alone, claim(place.database))

    assert result is not None
    assert (result["steps"], trace.exists()) == (10, False)
    with place.database.read() as session:
        assert session.scalars(select(Metric.step).where(Metric.job_id == row)).all() != []


def test_a_training_told_to_stop_leaves_a_checkpoint_of_its_last_step(place: Place, alone: Ranks) -> None:
    row = add_training(place.database, tiny_request(steps=1000))
    stop = threading.Event()
    stop.set()

    assert run(place, alone, claim(place.database), stop) is None

    checkpoint = read_job(place.database, row).checkpoint
    assert checkpoint is not None
    assert checkpoint["step"] == 1


def test_only_the_last_two_checkpoints_are_kept(place: Place, alone: Ranks) -> None:
    row = add_training(place.database, tiny_request(steps=5, checkpoint_steps=1))
    run(place, alone, claim(place.database))
    folder = f"trainings/{row}/checkpoints"
    assert [entry.key for entry in place.store.entries(folder)] == [
        f"{folder}/0000000{step}-1.safetensors" for step in (3, 4)
    ]


@pytest.mark.parametrize("checkpoint_steps", [5, 500])
def test_a_trainer_that_lost_its_lease_writes_nothing_that_counts(
    place: Place, alone: Ranks, checkpoint_steps: int
) -> None:
    row = add_training(place.database, tiny_request(steps=10, checkpoint_steps=checkpoint_steps))
    late = claim(place.database)
    with place.database.write() as session:
        session.execute(update(Job).where(Job.id == row).values(fence=late.fence + 1))

    with pytest.raises(LostLease):
        run(place, alone, late)

    with place.database.read() as session:
        assert session.scalars(select(Metric)).all() == []
    assert (read_job(place.database, row).checkpoint, read_job(place.database, row).done) == (None, 0)


def test_the_card_tells_what_the_encoder_is(place: Place, alone: Ranks) -> None:
    shards = [Shard("b", [flat(200)] * 3, take=3), Shard("a", [flat(50)] * 3, take=3)]
    dataset = add_dataset(place.database, place.store, shards)
    row = add_training(place.database, tiny_request(real=None, datasets=(dataset,)), class_ids=("b", "a"))

    result = run(place, alone, claim(place.database))

    assert result is not None
    card = EncoderCard.model_validate_json(place.store.get(str(result["card_key"])))
    assert (card.training, card.class_ids, card.image_size, card.images) == (row, ("b", "a"), 32, 6)
    assert card.recipe_digests == ("digest-of-the-recipe",)


def test_curves_are_stored_as_lines(place: Place, alone: Ranks) -> None:
    add_training(place.database, tiny_request(steps=12, learning_rate=0.5))
    result = run(place, alone, claim(place.database))
    assert result is not None
    data = place.store.get(str(result["metrics_key"]))
    assert hashlib.sha256(data).hexdigest() == result["metrics_sha256"]
    lines = [json.loads(line) for line in data.splitlines()]
    # The 12 batches are of 8 images, an epoch is of 1257.
    assert [(line["step"], line["epoch"]) for line in lines] == [(10, 80 / 1257), (12, 96 / 1257)]
    assert all(
        line.keys() == {"step", "epoch", "loss", "lr", "images_per_second", "seconds", "processes"} for line in lines
    )


def test_a_corrupt_shard_is_named(place: Place, alone: Ranks) -> None:
    dataset = add_dataset(place.database, place.store, [Shard("a", [flat(50)], take=1)])
    place.store.put("images/0.tar", b"other bytes")
    add_training(place.database, tiny_request(real=None, datasets=(dataset,)), class_ids=("a",))
    with pytest.raises(CorruptObject, match=r"images/0\.tar is damaged .*sha256 .*, committed was"):
        run(place, alone, claim(place.database))


def test_datasets_with_other_classes_are_refused(place: Place, alone: Ranks) -> None:
    dataset = add_dataset(place.database, place.store, [Shard("a", [flat(50)], take=1)])
    add_training(place.database, tiny_request(real=None, datasets=(dataset,)), class_ids=("b",))
    with pytest.raises(Rejected, match=r"has 1 classes \(a\), the training was made for 1 \(b\)"):
        run(place, alone, claim(place.database))


def test_real_images_of_other_classes_are_refused(place: Place, alone: Ranks) -> None:
    add_training(place.database, tiny_request(), class_ids=DIGITS[1:])
    with pytest.raises(Rejected, match="digits-train has other classes than the training"):
        run(place, alone, claim(place.database))


def test_an_unknown_architecture_is_answered_with_close_names(place: Place, alone: Ranks) -> None:
    add_training(place.database, tiny_request(architecture="resnet51"))
    with pytest.raises(Rejected, match="unknown architecture 'resnet51'; close names: resnet"):
        run(place, alone, claim(place.database))


def test_an_architecture_that_cannot_take_the_images_is_refused(place: Place, alone: Ranks) -> None:
    add_training(place.database, tiny_request(architecture="test_vit", image_size=33))
    with pytest.raises(Rejected, match="'test_vit' cannot take images of 33 x 33"):
        run(place, alone, claim(place.database))


def test_a_batch_without_an_equal_part_for_every_gpu_is_refused(place: Place) -> None:
    spec = spec_of(tiny_request(batch_size=12, accumulate=4))
    source = open_source(spec, database=place.database, store=place.store, cache=place.cache)
    three, two = (Ranks(rank=0, size=size, device=torch.device("cpu")) for size in (3, 2))
    assert open_stream(spec, source, three).recipe.accumulate == 4
    with pytest.raises(Rejected, match="cannot be shared by 2 GPUs in 4 parts; give a multiple of 8"):
        open_stream(spec, source, two)


def test_a_diverging_training_ends_with_advice(place: Place, alone: Ranks) -> None:
    add_training(place.database, tiny_request(steps=30, optimizer="sgd", learning_rate=1000))
    with pytest.raises(Rejected, match=r"no number in step \d+, of images .*, \.\.\. of epoch 0; lower .* \(1000\.0\)"):
        run(place, alone, claim(place.database))


def test_the_checkpoint_of_a_diverging_training_is_of_a_step_before(place: Place, alone: Ranks) -> None:
    row = add_training(place.database, tiny_request(steps=30, optimizer="sgd", learning_rate=1000, checkpoint_steps=1))
    with pytest.raises(Rejected) as caught:
        run(place, alone, claim(place.database))
    broken = int(re.search(r"step (\d+)", caught.value.detail)[1])  # type: ignore[index]
    checkpoint = read_job(place.database, row).checkpoint
    assert checkpoint is not None
    assert checkpoint["step"] == broken - 1 > 0
    tensors = load(place.store.get(str(checkpoint["key"])))
    assert float(tensors["network.conv1.0.weight"].isnan().sum()) == 0


def test_the_checkpoint_before_serves_when_the_last_was_cut_short(
    place: Place, alone: Ranks, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {"steps": 6, "checkpoint_steps": 2}
    first = add_training(place.database, tiny_request(**fields))
    expected = weights(place, run(place, alone, claim(place.database)))
    checkpoint = read_job(place.database, first).checkpoint
    assert checkpoint is not None
    place.store.put(str(checkpoint["key"]), place.store.get(str(checkpoint["key"]))[:1000])
    add_resumed(place, first, **fields)

    with caplog.at_level("INFO"):
        found = weights(place, run(place, alone, claim(place.database)))

    assert [record.from_step for record in caplog.records if hasattr(record, "from_step")] == [2]
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_weights_that_a_step_broke_are_never_stored(alone: Ranks) -> None:
    """The loss of a step is that of the weights before it."""
    spec = spec_of(tiny_request(steps=1))
    trained = create_learner(spec, image_size=32, steps=1, warmup_steps=0, ranks=alone)
    refuse_broken_weights(trained, 1)
    with torch.no_grad():
        next(trained.network.parameters()).fill_(torch.inf)
    with pytest.raises(Rejected, match=r"step 1 made conv1\.0\.weight no number"):
        refuse_broken_weights(trained, 1)
