"""Celery's pool child, a daemon process of billiard's, reads a registered set with loaders of its own."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import billiard
import pytest

from shared.database import Database
from shared.schema import upgrade
from shared.settings import Settings
from tests.addresses import redis_url
from tests.processes import wait_until
from tests.shared.real.layouts import small_images, write_imagefolder

BATCH_SIZE = 4


def read_and_stay(environment: dict[str, str], root: str, seen: str) -> None:
    """What the child does: import the module that connects Celery's signals, be initialised, read batches."""
    os.environ.update(environment)
    from celery.signals import worker_process_init

    import services.evaluator.tasks  # noqa: F401

    worker_process_init.send(sender=None)
    import multiprocessing

    from shared.vision.real.batches import eval_batches
    from shared.vision.real.decoding import EvalView
    from shared.vision.real.layouts import read_listing

    batches = eval_batches(read_listing("imagefolder", Path(root)), EvalView(32), batch_size=BATCH_SIZE, workers=2)
    shapes = [list(next(batches)[0].shape)]
    loaders = [process.pid for process in multiprocessing.active_children()]
    part = Path(seen).with_suffix(".part")
    part.write_text(json.dumps({"shapes": shapes, "loaders": loaders}))
    part.rename(seen)
    time.sleep(120)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[tuple["billiard.process.BaseProcess", Path]]:
    settings = Settings(data_dir=tmp_path, device="cpu")
    upgrade(Database(settings.sqlalchemy_url))
    environment = {
        "SYNTHCLONE_DATA_DIR": str(tmp_path),
        "SYNTHCLONE_REDIS_URL": redis_url(),
        "SYNTHCLONE_DEVICE": "cpu",
    }
    root, seen = write_imagefolder(tmp_path / "set", small_images()), tmp_path / "seen.json"
    arguments = (environment, str(root), str(seen))
    process = billiard.get_context("spawn").Process(target=read_and_stay, args=arguments, daemon=True)
    process.start()
    yield process, seen
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join(10)


def has_ended(pid: int) -> bool:
    """A process without a living parent may stay in the table until init looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_pool_child_has_loaders_and_they_end_when_it_is_killed(
    child: tuple["billiard.process.BaseProcess", Path],
) -> None:
    process, seen = child
    wait_until(lambda: seen.exists() or not process.is_alive() or None, seconds=60, what="the first batch")
    assert seen.exists(), f"the child ended with {process.exitcode}"
    found = json.loads(seen.read_text())
    assert found["shapes"] == [[BATCH_SIZE, 3, 32, 32]]
    assert len(found["loaders"]) == 2
    os.kill(process.pid, signal.SIGKILL)
    # torch's loaders look for their parent every five seconds.
    wait_until(lambda: all(map(has_ended, found["loaders"])) or None, seconds=30, what="the loaders' end")
