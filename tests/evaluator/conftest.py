from pathlib import Path

import pytest
import torch

from services.evaluator.evaluate import Place
from shared.database import Database
from shared.schema import upgrade
from shared.storage import LocalStore


@pytest.fixture
def place(tmp_path: Path) -> Place:
    database = Database(f"sqlite:///{tmp_path}/test.db")
    upgrade(database)
    return Place(database, LocalStore(tmp_path / "objects"), torch.device("cpu"))
