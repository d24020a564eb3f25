from collections.abc import Iterator
from pathlib import Path

from shared.vision.device import choose_device
from shared.vision.real.bucket import Bucket

import pytest
import torch

from services.evaluator.evaluate import Place
from shared.database import Database
from shared.schema import upgrade
from shared.settings import Settings
from shared.storage import open_store
from shared.stored.cache import ShardCache


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, device="cpu")


@pytest.fixture
def place(settings: Settings) -> Place:
    database = Database(settings.sqlalchemy_url)
    upgrade(database)
    store, device = open_store(settings), choose_device(settings.device)
    bucket = Bucket(store, ShardCache(settings.cache_dir / "shards", min_free_bytes=0))
    return Place(database, store, device, settings.cache_dir, 0, bucket)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small products of matrices take many times longer where two threads wait for each other on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
