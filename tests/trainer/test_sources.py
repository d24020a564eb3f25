from pathlib import Path

from shared.vision import digits
from shared.vision.drawn import ShardImages, index_shards

import pytest
import torch

from services.trainer.images import in_memory
from services.trainer.ranks import Ranks
from services.trainer.run import Place
from services.trainer.sources import Source, open_source, open_stream, warmup_steps
from shared.errors import BeingRedrawn, NotFound, Rejected
from shared.stored.fetch import fetch_shard
from shared.stored.manifest import ManifestShard, read_manifest

from .rows import DIGITS, Shard, add_dataset, add_job, flat, read_job, spec_of, tiny_request

SHARDS = [Shard("b", [flat(10), flat(20), flat(30)], take=2), Shard("a", [flat(40)], take=3)]


def listed_shards(place: Place) -> tuple[ManifestShard, ...]:
    dataset = add_dataset(place.database, place.store, SHARDS)
    return read_manifest(place.database, place.store, dataset).shards


def indexed(place: Place) -> ShardImages:
    shards = listed_shards(place)
    files = [fetch_shard(place.store, shard, place.cache) for shard in shards]
    return index_shards(files, shards, {"b": 0, "a": 1})


def source_of(images: ShardImages) -> Source:
    return Source(images, (len(images.labels),), ())


def test_only_the_slots_that_the_dataset_takes_are_used(place: Place) -> None:
    images = indexed(place)
    assert images.labels.tolist() == [0, 0, 1]
    assert [int(images.image(index).float().mean().round()) for index in range(3)] == [10, 20, 40]


def test_images_in_memory_are_those_in_the_shards(place: Place) -> None:
    stored = indexed(place)
    held = in_memory(stored)
    assert held is not stored
    assert all(torch.equal(held.image(index), stored.image(index)) for index in range(3))


def test_a_cached_shard_is_not_fetched_again(place: Place) -> None:
    shard = listed_shards(place)[0]
    file = fetch_shard(place.store, shard, place.cache)
    place.store.delete(shard.key)
    assert fetch_shard(place.store, shard, place.cache) == file


def test_a_truncated_file_in_the_cache_is_fetched_again(place: Place) -> None:
    shard = listed_shards(place)[0]
    file = fetch_shard(place.store, shard, place.cache)
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert fetch_shard(place.store, shard, place.cache).read_bytes() == whole


def test_a_missing_shard_is_named(place: Place) -> None:
    shard = listed_shards(place)[0]
    place.store.delete(shard.key)
    with pytest.raises(NotFound, match=r"images/0\.tar"):
        fetch_shard(place.store, shard, place.cache)


def test_a_changed_manifest_is_written_again_before_anything_is_learnt_from_it(place: Place) -> None:
    dataset = add_dataset(place.database, place.store, SHARDS)
    place.store.put("datasets/manifest.json", b"{}")
    with pytest.raises(BeingRedrawn, match="manifest"):
        read_manifest(place.database, place.store, dataset)
    assert read_job(place.database, dataset).is_manifest_stale


def test_a_dataset_without_images_is_refused_with_its_state(place: Place) -> None:
    dataset = add_job(place.database, "dataset", state="failed", spec={})
    with pytest.raises(Rejected, match=f"{dataset} is failed and has no images"):
        read_manifest(place.database, place.store, dataset)


def test_several_datasets_are_one_training_set(place: Place) -> None:
    datasets = tuple(add_dataset(place.database, place.store, SHARDS) for _ in range(2))
    request = tiny_request(real=None, datasets=datasets)
    spec = spec_of(request, ("b", "a"))
    source = open_source(spec, database=place.database, store=place.store, cache=place.cache)
    assert source.images.labels.tolist() == [0, 0, 1, 0, 0, 1]
    assert source.recipe_digests == ("digest-of-the-recipe",)
    assert source.parts == (3, 3)


def test_drawn_and_real_images_are_mixed_by_their_shares(place: Place, alone: Ranks) -> None:
    shards = [Shard(class_id, [flat(label)] * 2, take=2) for label, class_id in enumerate(DIGITS[::-1])]
    dataset = add_dataset(place.database, place.store, shards)
    request = tiny_request(datasets=(dataset,), shares=(0.25, 0.75))
    spec = spec_of(request, DIGITS[::-1])
    source = open_source(spec, database=place.database, store=place.store, cache=place.cache)
    assert source.parts == (20, 1257)
    # The real digits are labelled by the dataset's order of classes.
    real = digits.train_digits()
    assert source.images.labels[20:].tolist() == [9 - label for label in real.labels.tolist()]
    assert torch.equal(source.images.image(21), torch.from_numpy(real.images[1]).permute(2, 0, 1))
    stream = open_stream(spec, source, alone)
    first_epoch = [stream.place(position)[1] for position in range(1277)]
    assert sum(number < 20 for number in first_epoch) == round(0.25 * 1277)


@pytest.mark.parametrize(("fields", "steps"), [({"steps": 9}, 9), ({"epochs": 3}, 5), ({}, 150)])
def test_epochs_are_rounded_up_to_whole_steps(place: Place, alone: Ranks, fields: dict[str, int], steps: int) -> None:
    request = tiny_request(batch_size=2, **({"steps": None} | fields))
    assert open_stream(spec_of(request), source_of(indexed(place)), alone).steps == steps


def test_a_batch_that_the_gpus_cannot_share_is_refused(place: Place) -> None:
    with pytest.raises(Rejected, match="give a multiple of 3"):
        open_stream(spec_of(tiny_request(batch_size=8)), source_of(indexed(place)), Ranks(0, 3, torch.device("cpu")))


def test_the_cache_holds_no_part_of_a_download(place: Place, tmp_path: Path) -> None:
    indexed(place)
    assert [file.suffix for file in place.cache.folder.iterdir() if file.is_file()] == [".tar", ".tar"]


def test_a_warm_up_that_the_training_never_leaves_is_refused(place: Place, alone: Ranks) -> None:
    spec = spec_of(tiny_request(recipe="imagenet-sd", batch_size=2, steps=15))
    stream = open_stream(spec, source_of(indexed(place)), alone)
    with pytest.raises(Rejected, match="takes 15 steps and the training has 15; give a smaller warmup_steps"):
        warmup_steps(spec.recipe, stream)
