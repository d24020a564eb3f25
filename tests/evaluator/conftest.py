from pathlib import Path

from shared.vision.device import choose_device

import pytest

from services.evaluator.evaluate import Place
from shared.database import Database
from shared.schema import upgrade
from shared.settings import Settings
from shared.storage import open_store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, device="cpu")


@pytest.fixture
def place(settings: Settings) -> Place:
    database = Database(settings.sqlalchemy_url)
    upgrade(database)
    return Place(database, open_store(settings), choose_device(settings.device))
