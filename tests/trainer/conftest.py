from pathlib import Path

import pytest
import torch

from services.trainer.ranks import Ranks
from services.trainer.run import Place
from shared.database import Database
from shared.schema import upgrade
from shared.settings import Settings
from shared.storage import LocalStore
from shared.stored.cache import ShardCache


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A data folder of the test's own, also for the training process, which reads its environment."""
    monkeypatch.setenv("SYNTHCLONE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SYNTHCLONE_DEVICE", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # several processes with torch must not spin for the same cores
    monkeypatch.setenv("SYNTHCLONE_LEASE_SECONDS", "3")
    monkeypatch.setenv("SYNTHCLONE_MAX_ATTEMPTS", "1")
    return Settings()


@pytest.fixture
def database(settings: Settings) -> Database:
    database = Database(settings.sqlalchemy_url)
    upgrade(database)
    return database


@pytest.fixture
def store(settings: Settings) -> LocalStore:
    return LocalStore(settings.objects_dir)


@pytest.fixture
def place(database: Database, store: LocalStore, tmp_path: Path) -> Place:
    return Place(database, store, ShardCache(tmp_path / "cache", min_free_bytes=0))


@pytest.fixture
def alone() -> Ranks:
    return Ranks(rank=0, size=1, device=torch.device("cpu"))
