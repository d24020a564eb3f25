"""The cache of shards on one machine, on a small disk of its own."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import Rejected, Unavailable
from shared.stored.cache import ShardCache
from shared.stored.manifest import ManifestShard

MIB = 1 << 20
DISK_MIB = 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a disk of four MiB")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def content(number: int) -> bytes:
    return bytes([number]) * MIB


def shard(number: int) -> ManifestShard:
    data = content(number)
    sha256 = hashlib.sha256(data).hexdigest()
    return ManifestShard(key=str(number), bytes=len(data), sha256=sha256, class_id="a", start=0, take=1)


def fill(cache: ShardCache, *numbers: int) -> None:
    shards = [shard(number) for number in numbers]
    cache.hold(shards)
    for number, each in zip(numbers, shards, strict=True):
        cache.get(each, lambda number=number: content(number))  # type: ignore[misc]


def cache_on(disk: Path) -> ShardCache:
    return ShardCache(disk, min_free_bytes=MIB // 8)


def cached(disk: Path) -> set[int]:
    return {number for number in range(10) if (disk / f"{shard(number).sha256}.tar").exists()}


def test_the_least_recently_used_shards_make_room(disk: Path) -> None:
    fill(cache_on(disk), 0, 1, 2)
    for number, age in ((0, 100), (1, 300), (2, 200)):
        file = cache_on(disk).path(shard(number))
        os.utime(file, (1e9 - age, 1e9 - age))
    fill(cache_on(disk), 3)
    assert cached(disk) == {0, 2, 3}


def test_using_a_shard_makes_it_recent(disk: Path) -> None:
    fill(cache_on(disk), 0, 1, 2)
    for number in range(3):
        os.utime(cache_on(disk).path(shard(number)), (1e9 + number, 1e9 + number))
    fill(cache_on(disk), 0)
    fill(cache_on(disk), 4)
    assert cached(disk) == {0, 2, 4}


HOLDER = """
import sys
from pathlib import Path
from shared.stored.cache import ShardCache
from tests.shared.test_shard_cache import fill, MIB
cache = ShardCache(Path(sys.argv[1]), min_free_bytes=MIB // 8)
fill(cache, 0, 1, 2)
print("held", flush=True)
sys.stdin.read()
"""


def test_what_a_running_training_reads_stays_and_goes_when_it_is_killed(disk: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Unavailable, match="other jobs on this machine use the rest"):
        fill(cache_on(disk), 3)
    assert cached(disk) == {0, 1, 2}
    holder.kill()
    holder.communicate()
    fill(cache_on(disk), 3)
    assert 3 in cached(disk)


def test_more_than_the_disk_holds_is_refused_with_the_size(disk: Path) -> None:
    with pytest.raises(Rejected, match=r"take 5,242,880 bytes and the disk of .* has 3,932,160; mount a larger one"):
        cache_on(disk).hold([shard(number) for number in range(5)])


def test_what_one_job_holds_piece_by_piece_is_refused_as_a_whole(disk: Path) -> None:
    cache = cache_on(disk)
    fill(cache, 0, 1)
    with pytest.raises(Rejected, match=r"images of this job take 4,194,304 bytes and the disk of"):
        cache.hold([shard(2), shard(3)])
    cache.let_go()
    cache.hold([shard(2), shard(3)])


def test_two_trainings_download_a_shard_once(tmp_path: Path) -> None:
    downloads = []
    started = threading.Barrier(2)

    def download() -> bytes:
        downloads.append(1)
        return content(1)

    def fetch() -> None:
        cache = ShardCache(tmp_path, min_free_bytes=0)
        started.wait()
        cache.get(shard(1), download)

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert downloads == [1]


def test_what_another_has_yet_to_download_is_not_given_away(disk: Path) -> None:
    first = cache_on(disk)
    first.hold([shard(0), shard(1)])
    with pytest.raises(Unavailable, match="needs 4,456,448 bytes"):
        cache_on(disk).hold([shard(2), shard(3)])


def test_what_a_process_lets_go_of_makes_room_while_it_lives_on(disk: Path) -> None:
    first = cache_on(disk)
    fill(first, 0, 1, 2)
    with pytest.raises(Unavailable):
        fill(cache_on(disk), 3)
    first.let_go()
    fill(cache_on(disk), 3)
    assert 3 in cached(disk)
    first.hold([shard(3)])
    with pytest.raises(Unavailable, match="other jobs"):
        fill(cache_on(disk), 0, 1, 2)


def test_a_cache_that_has_everything_needs_no_room(disk: Path) -> None:
    fill(cache_on(disk), 0, 1, 2)
    (disk / "written by another").write_bytes(bytes(MIB - MIB // 8))
    cache_on(disk).hold([shard(number) for number in range(3)])
