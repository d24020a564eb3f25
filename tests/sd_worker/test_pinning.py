"""Each child of a Celery worker is given a GPU of its own, also one that takes a dead one's place.

The database is away when a child first starts, so each is given its GPU twice.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.addresses import redis_url
from tests.processes import Processes, wait_until

COMMAND = [sys.executable, "-m", "celery", "-A", "tests.sd_worker.pinned_children", "worker", "-Q", "pinning"]


@pytest.fixture
def children(tmp_path: Path) -> Path:
    return tmp_path / "children"


@pytest.fixture
def processes(tmp_path: Path, children: Path) -> Iterator[Processes]:
    url = redis_url()
    try:
        redis.Redis.from_url(url).ping()
    except redis.exceptions.ConnectionError as error:
        pytest.skip(f"Redis does not answer: {error}")
    variables = {"SYNTHCLONE_REDIS_URL": url, "SYNTHCLONE_WORKER_HEALTH_PORT": "8001", "CHILDREN_FILE": str(children)}
    with Processes(tmp_path, variables) as running:
        yield running


def lines(children: Path, count: int) -> list[list[str]] | None:
    """Process id, visible GPU, health port, and whether torch was there already."""
    found = [line.split() for line in children.read_text().splitlines()] if children.exists() else []
    return sorted(found, key=lambda line: line[1]) if len(found) == count else None


@pytest.mark.slow
@pytest.mark.redis
def test_children_see_one_gpu_each_before_torch_is_loaded(processes: Processes, children: Path) -> None:
    processes.start([*COMMAND, "--concurrency", "3"], "pinned", {"CUDA_VISIBLE_DEVICES": "4,5,7"})
    found = wait_until(lambda: lines(children, 3), seconds=60, what="three children")
    assert [line[1:] for line in found] == [["4", "8001", "False"], ["5", "8002", "False"], ["7", "8003", "False"]]
    os.kill(int(found[1][0]), signal.SIGKILL)
    again = wait_until(lambda: lines(children, 4), seconds=60, what="another child")
    assert [line[1] for line in again] == ["4", "5", "5", "7"]


@pytest.mark.slow
@pytest.mark.redis
def test_a_child_without_a_gpu_says_so_and_works_on_none(processes: Processes, children: Path) -> None:
    processes.start([*COMMAND, "--concurrency", "2"], "pinned", {"CUDA_VISIBLE_DEVICES": "4"})
    wait_until(lambda: "worker 2 has no GPU" in processes.logs() or None, seconds=60, what="a refusal")
    wait_until(lambda: children.exists() or None, seconds=60, what="the child that has one")
    assert {line.split()[1] for line in children.read_text().splitlines()} == {"4"}


@pytest.mark.slow
@pytest.mark.redis
def test_children_on_the_cpu_need_no_gpu(processes: Processes, children: Path) -> None:
    variables = {"CUDA_VISIBLE_DEVICES": "4", "SYNTHCLONE_DEVICE": "cpu"}
    processes.start([*COMMAND, "--concurrency", "2"], "pinned", variables)
    found = wait_until(lambda: lines(children, 2), seconds=60, what="two children")
    assert sorted(line[1:3] for line in found) == [["4", "8001"], ["4", "8002"]]
