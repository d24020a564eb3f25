"""The cache of features: what makes room, and what happens without any."""

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from services.evaluator.features import keep, make_room, read

FEATURES = torch.arange(2000.0).reshape(50, 40)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, so that no other process changes its free room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def file_of_age(folder: Path, name: str, age: float) -> Path:
    file = folder / name
    keep(FEATURES, file, 0)
    os.utime(file, (1e9 - age, 1e9 - age))
    return file


def test_what_is_kept_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "a.safetensors"
    keep(FEATURES, file, 0)
    found = read(file, len(FEATURES))
    assert found is not None
    assert torch.equal(found, FEATURES)
    assert list(file.parent.iterdir()) == [file]


def test_the_least_recently_used_files_make_room(small_disk: Path) -> None:
    old, newer = file_of_age(small_disk, "old", 200), file_of_age(small_disk, "newer", 100)
    left_over = file_of_age(small_disk, ".part-1", 150)
    assert read(old, len(FEATURES)) is not None  # now the most recently used
    assert make_room(small_disk, shutil.disk_usage(small_disk).free + left_over.stat().st_size)
    assert (old.exists(), left_over.exists(), newer.exists()) == (True, False, True)


def test_nothing_is_deleted_for_what_will_never_fit(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = file_of_age(small_disk, "old", 200)
    with caplog.at_level(logging.WARNING):
        keep(FEATURES, small_disk / "new", 2**40)
    assert list(small_disk.iterdir()) == [old]
    assert "features are not cached" in caplog.text


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_the_way = tmp_path / "features"
    in_the_way.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        keep(FEATURES, in_the_way / "a.safetensors", 0)
    assert "features are not cached" in caplog.text
