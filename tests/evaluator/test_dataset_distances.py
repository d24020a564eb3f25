"""A dataset drawn, stored and listed as the services do it, compared with real digits in an encoder's features."""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shared.vision import digits
from shared.vision.real.registered import NewSet, inspect, register

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock
from safetensors.torch import load_file
from sqlalchemy import select

from services.dispatcher.tick import tick
from services.evaluator.compared_photos import DrawnPhotos, draw_photos, images_at
from services.evaluator.consumer import make_consumer
from services.evaluator.dataset_distances import Pair, measure_distance, open_pairs
from services.evaluator.evaluate import Place, embedding_of, evaluate, read_encoder
from services.evaluator.linear import never_stop
from services.evaluator.report import Report
from services.evaluator.transfer import Stopped, stop_check
from shared import leases
from shared.errors import BeingRedrawn, CorruptObject, Rejected, Unavailable
from shared.leases import StoredShard
from shared.settings import Settings
from shared.shards import Sample, pack
from shared.specs import DistanceRequest, EvaluationRequest, EvaluationSpec
from shared.stored.fetch import fetch_shards
from shared.stored.manifest import read_manifest
from shared.tables import Shard
from tests import rows
from tests.evaluator.test_evaluator import add_trained
from tests.trainer.rows import DIGITS, add_job, claim, flat, jpeg, read_job

Photo = npt.NDArray[np.uint8]
# Of each class the photo of every slot; None where the gate rejected every attempt.
Content = Mapping[str, Sequence[Photo | None]]


def drawn_dataset(place: Place, content: Content, *, shard_slots: int = 128) -> str:
    with place.database.write() as session:
        images = {class_id: len(photos) for class_id, photos in content.items()}
        dataset = rows.add_dataset(session, images=images).id
    draw(place, content, shard_slots=shard_slots)
    return dataset


def draw(place: Place, content: Content, *, shard_slots: int = 128) -> None:
    """What dispatcher and generating workers do until everything is drawn and listed."""
    settings = Settings(shard_slots=shard_slots)
    for _ in range(2):
        tick(place.database, place.store, settings, absent={})
        for lease in rows.claim(place.database, limit=100):
            store_shard(place, lease, content[lease.class_id])
    tick(place.database, place.store, settings, absent={})


def store_shard(place: Place, lease: leases.ShardLease, photos: Sequence[Photo | None]) -> None:
    slots = range(lease.start_slot, lease.stop_slot)
    found = {slot: photo for slot in slots if (photo := photos[slot]) is not None}
    data = pack([Sample(f"image{slot}", slot, jpeg(photo), 0, {}) for slot, photo in found.items()])
    place.store.put(lease.object_key, data)
    short = tuple(slot for slot in slots if slot not in found)
    stored = StoredShard(lease.object_key, len(data), hashlib.sha256(data).hexdigest(), len(found), short, {})
    with place.database.write() as session:
        leases.commit(session, lease, stored)


def real_digits(count: int, *, labels: Sequence[int] = range(10)) -> dict[str, list[Photo]]:
    """The first photos of each of these digits, `count` of each."""
    split = digits.test_digits()
    return {DIGITS[label]: list(split.images[split.labels == label][:count]) for label in labels}


def noise(count: int) -> list[Photo]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))


def register_folder(place: Place, content: Mapping[str, Sequence[Photo]], root: Path) -> str:
    for class_id, photos in content.items():
        (root / class_id).mkdir(parents=True)
        for number, photo in enumerate(photos):
            (root / class_id / f"{number}.jpg").write_bytes(jpeg(photo))
    found = inspect(NewSet("copy", root, role="test"), cache_dir=place.cache_dir)
    with place.database.write() as session:
        return register(session, found).name


def add_evaluation(place: Place, *asked: DistanceRequest, benchmarks: tuple[str, ...] = ()) -> str:
    request = EvaluationRequest(training=add_trained(place), benchmarks=benchmarks, distances=asked)
    spec = EvaluationSpec(request=request, version="0.1.0").model_dump(mode="json")
    return add_job(place.database, "evaluation", state="queued", spec=spec, total=request.parts)


def evaluated(place: Place, *asked: DistanceRequest, benchmarks: tuple[str, ...] = ()) -> Report:
    add_evaluation(place, *asked, benchmarks=benchmarks)
    result = evaluate(place, claim(place.database, "evaluation"), ())
    assert result is not None
    return Report.model_validate_json(place.store.get(str(result["report_key"])))


def opened(place: Place, asked: DistanceRequest) -> Pair:
    return open_pairs(
        [asked], database=place.database, bucket=place.bucket, cache_dir=place.cache_dir, check=never_stop
    )[0]


def fetching(place: Place) -> Callable[..., list[Path]]:
    return lambda shards: fetch_shards(shards, database=place.database, store=place.store, cache=place.bucket.cache)


def a_shard_key(place: Place) -> str:
    with place.database.read() as session:
        return str(session.scalar(select(Shard.object_key).order_by(Shard.id)))


def test_a_dataset_of_the_very_photos_is_at_no_distance(place: Place, tmp_path: Path) -> None:
    photos = real_digits(6)
    dataset, real = drawn_dataset(place, photos), register_folder(place, photos, tmp_path / "copy")
    (found,) = evaluated(place, DistanceRequest(dataset=dataset, real=real, images=60)).distances
    assert found.frechet == pytest.approx(0, abs=1e-6)
    assert (found.precision, found.recall, found.density, found.coverage) == (1, 1, 1, 1)
    assert (found.images, found.drawn_of, found.real_of) == (60, 60, 60)
    assert found.set_digest is not None


def test_other_images_are_at_a_distance(place: Place, tmp_path: Path) -> None:
    dataset = drawn_dataset(place, {DIGITS[0]: noise(20), DIGITS[1]: noise(20)})
    real = register_folder(place, real_digits(20, labels=[0, 1]), tmp_path / "copy")
    (found,) = evaluated(place, DistanceRequest(dataset=dataset, real=real, images=40)).distances
    assert found.frechet > 0.1
    assert (found.precision, found.recall, found.coverage) == (0, 0, 0)


def test_a_copied_training_photo_is_found_and_named(place: Place) -> None:
    split = digits.train_digits()
    copied = int(np.flatnonzero(split.labels == 3)[5])
    drawn = [*noise(30), split.images[copied]]
    dataset = drawn_dataset(place, {DIGITS[8]: noise(9), DIGITS[3]: drawn})
    (found,) = evaluated(place, DistanceRequest(dataset=dataset, real="digits-train", images=40)).distances
    assert found.memorisation is None  # of two classes there are too few photos
    ten = {class_id: noise(1) for class_id in DIGITS} | {DIGITS[3]: drawn}
    dataset = drawn_dataset(place, ten)
    (found,) = evaluated(place, DistanceRequest(dataset=dataset, real="digits-train", images=40)).distances
    assert found.memorisation is not None
    nearest = found.memorisation.closest[0]
    assert (nearest.slot, nearest.real_image) == (30, f"digits-train image {copied}")
    assert f"/{DIGITS[3]}-text/" in nearest.object_key
    assert place.store.get(nearest.object_key)
    assert nearest.distance < 0.5 * found.memorisation.closest[1].distance
    assert (found.memorisation.bank, found.memorisation.real_images) == (1257, 1000)
    assert found.memorisation.share_within[0] == 1 / 40


def test_too_few_photos_to_speak_of_memorisation_are_a_reason_in_the_report(place: Place) -> None:
    dataset = drawn_dataset(place, real_digits(2))
    (found,) = evaluated(place, DistanceRequest(dataset=dataset, real="digits", images=20)).distances
    assert found.memorisation is None
    assert found.memorisation_missing is not None
    assert "digits has 540 photos" in found.memorisation_missing
    assert "needs 1,000" in found.memorisation_missing


def test_only_images_of_the_classes_that_both_sets_have_are_compared(place: Place) -> None:
    dataset = drawn_dataset(place, {"cat": noise(40), **real_digits(10, labels=[7, 2])})
    pair = opened(place, DistanceRequest(dataset=dataset, real="digits", images=15))
    assert pair.class_ids == (DIGITS[2], DIGITS[7])
    assert {image.shard.class_id for image in pair.drawn.images} == {DIGITS[2], DIGITS[7]}
    labels = digits.test_digits().labels
    assert (pair.drawn_of, len(pair.real)) == (20, int(np.isin(labels, (2, 7)).sum()))
    assert pair.real.name(0) == f"digits image {np.flatnonzero(np.isin(labels, (2, 7)))[0]}"
    (found,) = evaluated(place, pair.asked).distances
    assert (found.classes, found.dataset_classes, found.real_classes) == (2, 3, 10)


def test_a_set_without_a_class_of_the_dataset_is_refused(place: Place) -> None:
    dataset = drawn_dataset(place, {"cat": noise(20)})
    with pytest.raises(Rejected, match=f"{dataset} and digits have no class in common"):
        opened(place, DistanceRequest(dataset=dataset, real="digits", images=10))


def test_only_shards_with_a_drawn_image_are_fetched_and_only_drawn_images_are_embedded(place: Place) -> None:
    dataset = drawn_dataset(place, real_digits(8), shard_slots=2)
    evaluated(place, DistanceRequest(dataset=dataset, real="digits", images=10))
    fetched = len(list(place.bucket.cache.folder.glob("*.tar")))
    assert (fetched, len(read_manifest(place.database, place.store, dataset).shards)) == (10, 40)
    cached = [len(load_file(file)["features"]) for file in (place.cache_dir / "features").iterdir()]
    assert sorted(cached) == [10, 540]


def test_a_sample_of_all_has_every_accepted_image_once_and_none_beyond(place: Place) -> None:
    a, b = noise(7), noise(5)
    drawn_dataset(place, {"a": a, "b": b}, shard_slots=4)  # its shards hold more than the next one takes
    dataset = drawn_dataset(place, {"a": [a[0], None, *a[2:5]], "b": b[:3]}, shard_slots=4)
    manifest = read_manifest(place.database, place.store, dataset)
    found = draw_photos(manifest.shards, count=8, seed=1, fetch=fetching(place))
    assert where(found) == [("a", slot) for slot in range(5)] + [("b", slot) for slot in range(3)]
    assert [np.array(found.photo(index)).shape for index in range(8)] == [(32, 32, 3)] * 8


def test_slots_that_the_gate_rejected_are_never_drawn(place: Place) -> None:
    dataset = drawn_dataset(place, {"a": [flat(0), None, flat(100), None, flat(200), flat(250)]}, shard_slots=4)
    manifest = read_manifest(place.database, place.store, dataset)
    found = draw_photos(manifest.shards, count=4, seed=0, fetch=fetching(place))
    assert where(found) == [("a", 0), ("a", 2), ("a", 4), ("a", 5)]
    assert [round(float(np.array(found.photo(index)).mean())) for index in range(4)] == [0, 100, 200, 250]


def where(photos: DrawnPhotos) -> list[tuple[str, int]]:
    return [(image.shard.class_id, image.slot) for image in photos.images]


def test_a_seed_decides_the_sample(place: Place) -> None:
    dataset = drawn_dataset(place, {"a": noise(60)}, shard_slots=16)
    manifest = read_manifest(place.database, place.store, dataset)
    fetch = fetching(place)
    first, again, other = (draw_photos(manifest.shards, count=20, seed=seed, fetch=fetch) for seed in (0, 0, 1))
    assert (first.digest() == again.digest(), first.digest() == other.digest()) == (True, False)
    assert len(set(where(first))) == 20


def test_a_shard_with_other_images_than_the_manifest_lists_is_refused(place: Place) -> None:
    dataset = drawn_dataset(place, {"a": noise(3)})
    (shard,) = read_manifest(place.database, place.store, dataset).shards
    (file,) = fetching(place)([shard])
    with pytest.raises(CorruptObject, match=f"{shard.key} has 3 images of the dataset and its manifest lists 2"):
        images_at(shard.model_copy(update={"accepted": 2}), file, [0])


def test_a_dataset_with_too_few_images_is_refused(place: Place) -> None:
    dataset = drawn_dataset(place, real_digits(2))
    with pytest.raises(Rejected, match=f"{dataset} has 20 images of the 10 classes .* fewer than the 30 to compare"):
        opened(place, DistanceRequest(dataset=dataset, real="digits", images=30))


def test_a_real_set_with_too_few_images_of_the_shared_classes_is_refused(place: Place) -> None:
    dataset = drawn_dataset(place, {DIGITS[0]: noise(100), "cat": noise(1)})
    zeros = int((digits.test_digits().labels == 0).sum())
    with pytest.raises(Rejected, match=f"digits has {zeros} images of the 1 classes .* fewer than the 100"):
        opened(place, DistanceRequest(dataset=dataset, real="digits", images=100))


def test_a_damaged_shard_is_waited_for_before_anything_is_measured(place: Place, settings: Settings) -> None:
    content = real_digits(2)
    dataset = drawn_dataset(place, content)
    asked = DistanceRequest(dataset=dataset, real="digits", images=20)
    row = add_evaluation(place, asked, benchmarks=("digits",))
    place.store.delete(a_shard_key(place))
    consumer = make_consumer(settings)
    with pytest.raises(Unavailable, match="is being drawn again"):
        consumer.work(threading.Event())
    job = read_job(place.database, row)
    assert (job.state, job.attempts, job.done) == ("queued", 0, 0)
    draw(place, content)
    assert consumer.work(threading.Event())
    consumer.close()
    job = read_job(place.database, row)
    assert (job.state, job.done, job.total) == ("succeeded", 2, 2)
    assert job.result is not None
    summary = job.result["summary"]
    assert isinstance(summary, dict)
    assert summary.keys() == {"digits", f"{dataset}=digits"}


def test_shards_are_let_go_of_when_the_evaluation_ends(place: Place, settings: Settings) -> None:
    dataset = drawn_dataset(place, real_digits(2))
    add_evaluation(place, DistanceRequest(dataset=dataset, real="digits", images=20))
    consumer = make_consumer(settings)
    consumer.work(threading.Event())
    (user,) = (settings.cache_dir / "shards" / "users").glob("*.lock")
    with FileLock(user, timeout=0):  # raises while anybody holds it
        consumer.close()


def test_every_damaged_shard_is_reported_at_once(place: Place) -> None:
    dataset = drawn_dataset(place, real_digits(2))
    with place.database.read() as session:
        keys = list(session.scalars(select(Shard.object_key)))
    for key in keys[:3]:
        place.store.delete(str(key))
    with pytest.raises(BeingRedrawn):
        opened(place, DistanceRequest(dataset=dataset, real="digits", images=20))
    with place.database.read() as session:
        assert len(session.scalars(select(Shard).where(Shard.state == "pending")).all()) == 3


def test_an_evaluation_told_to_stop_fetches_nothing_more_and_reports_nothing(place: Place) -> None:
    dataset = drawn_dataset(place, real_digits(2))
    add_evaluation(place, DistanceRequest(dataset=dataset, real="digits", images=20))
    stop = threading.Event()
    stop.set()
    assert evaluate(place, claim(place.database, "evaluation"), (stop,)) is None
    assert list(place.store.entries("evaluations/")) == []
    assert list(place.bucket.cache.folder.glob("*.tar")) == []


def test_a_comparison_told_to_stop_embeds_nothing_more(place: Place) -> None:
    dataset = drawn_dataset(place, real_digits(2))
    pair = opened(place, DistanceRequest(dataset=dataset, real="digits", images=20))
    stop = threading.Event()
    stop.set()
    encoder = read_encoder(place, add_trained(place))
    with pytest.raises(Stopped):
        measure_distance(pair, embedding_of(place, encoder, stop_check([stop])))
    assert not (place.cache_dir / "features").exists()


def test_the_same_two_sets_cannot_be_asked_for_twice() -> None:
    asked = [DistanceRequest(dataset="ds-1", real="digits", images=images) for images in (10, 20)]
    with pytest.raises(ValueError, match=r"ds-1=digits is named twice; another seed or number .* of its own"):
        EvaluationRequest(training="tr-1", distances=tuple(asked))
