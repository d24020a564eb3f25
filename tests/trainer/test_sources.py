from pathlib import Path

import pytest
import torch

from services.trainer.images import ShardImages, in_memory, index_shards
from services.trainer.manifest import ManifestShard, fetch_shard, read_manifest
from services.trainer.ranks import Ranks
from services.trainer.run import Place
from services.trainer.sources import open_source, open_stream
from shared.errors import BeingRedrawn, NotFound, Rejected
from shared.specs import TrainingSpec

from .rows import Shard, add_dataset, add_job, flat, read_job, tiny_request

SHARDS = [Shard("b", [flat(10), flat(20), flat(30)], take=2), Shard("a", [flat(40)], take=3)]


def listed_shards(place: Place) -> tuple[ManifestShard, ...]:
    dataset = add_dataset(place.database, place.store, SHARDS)
    return read_manifest(place.database, place.store, dataset).shards


def indexed(place: Place) -> ShardImages:
    shards = listed_shards(place)
    files = [fetch_shard(place.store, shard, place.cache_dir) for shard in shards]
    return index_shards(files, shards, {"b": 0, "a": 1})


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
    file = fetch_shard(place.store, shard, place.cache_dir)
    place.store.delete(shard.key)
    assert fetch_shard(place.store, shard, place.cache_dir) == file


def test_a_truncated_file_in_the_cache_is_fetched_again(place: Place) -> None:
    shard = listed_shards(place)[0]
    file = fetch_shard(place.store, shard, place.cache_dir)
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert fetch_shard(place.store, shard, place.cache_dir).read_bytes() == whole


def test_a_missing_shard_is_named(place: Place) -> None:
    shard = listed_shards(place)[0]
    place.store.delete(shard.key)
    with pytest.raises(NotFound, match=r"images/0\.tar"):
        fetch_shard(place.store, shard, place.cache_dir)


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
    spec = TrainingSpec(request=request, class_ids=("b", "a"), class_names=("b", "a"), version="0")
    source = open_source(spec, database=place.database, store=place.store, cache_dir=place.cache_dir)
    assert source.images.labels.tolist() == [0, 0, 1, 0, 0, 1]
    assert source.recipe_digests == ("digest-of-the-recipe",)


@pytest.mark.parametrize(("fields", "steps"), [({"steps": 9}, 9), ({"epochs": 3}, 5), ({}, 150)])
def test_epochs_are_rounded_up_to_whole_steps(place: Place, alone: Ranks, fields: dict[str, int], steps: int) -> None:
    request = tiny_request(batch_size=2, **({"steps": None} | fields))
    assert open_stream(request, indexed(place), alone).steps == steps


def test_a_batch_that_the_gpus_cannot_share_is_refused(place: Place) -> None:
    with pytest.raises(Rejected, match="give a multiple of 3"):
        open_stream(tiny_request(batch_size=8), indexed(place), Ranks(0, 3, torch.device("cpu")))


def test_the_cache_holds_no_part_of_a_download(place: Place, tmp_path: Path) -> None:
    indexed(place)
    assert [file.suffix for file in place.cache_dir.iterdir()] == [".tar", ".tar"]
