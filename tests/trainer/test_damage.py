"""A training whose input is damaged waits, uncounted, until the input was made again."""

import hashlib
import threading
from pathlib import Path

import pytest
from sqlalchemy import select, update

from services.dispatcher.tick import tick
from services.trainer.consumer import make_consumer
from services.trainer.sources import open_source
from shared import leases
from shared.database import Database
from shared.errors import BeingRedrawn, CorruptObject, Unavailable
from shared.leases import StoredShard
from shared.settings import Settings
from shared.shards import Sample, pack
from shared.storage import LocalStore
from shared.stored.cache import ShardCache
from shared.tables import Shard
from tests import rows

from .rows import add_training, flat, jpeg, read_job, spec_of, tiny_request

CLASSES = ("n1", "n2")


class Dataset:
    """A real dataset of two classes: rows, objects and a manifest."""

    def __init__(self, database: Database, store: LocalStore, settings: Settings) -> None:
        self.database, self.store, self.settings = database, store, settings
        with database.write() as session:
            self.id = rows.add_dataset(session, images=dict.fromkeys(CLASSES, 2)).id
        self.work()

    def work(self) -> None:
        """What dispatcher and generating workers do until everything is drawn and listed."""
        for _ in range(2):
            tick(self.database, self.store, self.settings, absent={})
            for lease in rows.claim(self.database, limit=10):
                samples = [
                    Sample(f"image{slot}", slot, jpeg(flat(50 + slot + 10 * lease.shard_id)), 0, {})
                    for slot in range(2)
                ]
                data = pack(samples)
                self.store.put(lease.object_key, data)
                digest = hashlib.sha256(data).hexdigest()
                with self.database.write() as session:
                    leases.commit(session, lease, StoredShard(lease.object_key, len(data), digest, 2, (), {}))
        tick(self.database, self.store, self.settings, absent={})

    def a_shard_key(self) -> str:
        with self.database.read() as session:
            return str(session.scalar(select(Shard.object_key).order_by(Shard.id)))

    def open(self, cache_dir: Path) -> int:
        """How many images a training finds."""
        request = tiny_request(real=None, datasets=(self.id,))
        spec = spec_of(request, CLASSES)
        source = open_source(
            spec, database=self.database, store=self.store, cache=ShardCache(cache_dir, min_free_bytes=0)
        )
        return len(source.images.labels)


@pytest.fixture
def dataset(database: Database, store: LocalStore, settings: Settings) -> Dataset:
    return Dataset(database, store, settings)


def test_a_shard_that_is_gone_is_drawn_again_and_then_learnt_from(dataset: Dataset, tmp_path: Path) -> None:
    dataset.store.delete(dataset.a_shard_key())
    with pytest.raises(BeingRedrawn, match="is being drawn again"):
        dataset.open(tmp_path / "cache")
    dataset.work()
    assert dataset.open(tmp_path / "cache") == 4


def test_a_shard_with_a_flipped_byte_is_drawn_again(dataset: Dataset, tmp_path: Path) -> None:
    file = dataset.store.path(dataset.a_shard_key())
    whole = bytearray(file.read_bytes())
    whole[1000] ^= 1
    file.write_bytes(whole)
    with pytest.raises(BeingRedrawn):
        dataset.open(tmp_path / "cache")
    dataset.work()
    assert dataset.open(tmp_path / "cache") == 4


def test_a_damaged_manifest_is_written_again(dataset: Dataset, tmp_path: Path) -> None:
    result = read_job(dataset.database, dataset.id).result or {}
    dataset.store.path(str(result["manifest_key"])).write_bytes(b"{}")
    with pytest.raises(BeingRedrawn, match="being written again"):
        dataset.open(tmp_path / "cache")
    dataset.work()
    assert dataset.open(tmp_path / "cache") == 4


def test_a_shard_that_nobody_can_draw_any_more_is_named(dataset: Dataset, tmp_path: Path) -> None:
    key = dataset.a_shard_key()
    dataset.store.delete(key)
    with pytest.raises(BeingRedrawn):
        dataset.open(tmp_path / "cache")
    with dataset.database.write() as session:
        session.execute(update(Shard).where(Shard.state == "pending").values(state="failed"))
    with pytest.raises(CorruptObject, match=f"{key} is damaged .* and cannot be drawn again"):
        dataset.open(tmp_path / "cache")


@pytest.mark.slow
def test_a_training_waits_for_its_input_without_using_up_an_attempt(dataset: Dataset, settings: Settings) -> None:
    dataset.store.delete(dataset.a_shard_key())
    row = add_training(dataset.database, tiny_request(real=None, datasets=(dataset.id,)), class_ids=CLASSES)
    consumer = make_consumer(settings)
    with pytest.raises(Unavailable, match="is being drawn again"):
        consumer.work(threading.Event())
    job = read_job(dataset.database, row)
    assert (job.state, job.attempts) == ("queued", 0)
    dataset.work()
    consumer.work(threading.Event())
    consumer.close()
    assert read_job(dataset.database, row).state == "succeeded"
