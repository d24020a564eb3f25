"""How xdist divides the tests: a file is a piece of work, as its servers are started once.

Its own groups do not serve: with pytest 9.2 the marks of `--dist loadgroup` of xdist 3.8.0 have no effect.
"""

import os
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.addresses import XDIST_WORKER

# One piece, so that none is beside another: these compare seconds, and the faults keep a core busy.
MEASURING_TIME = {
    "tests/client/test_client.py",
    "tests/faults/test_faults.py",
    "tests/prompt_api/test_database_away.py",
    "tests/prompt_api/test_hostile_input.py",
    "tests/prompt_api/test_jobs.py",
    "tests/prompt_api/test_operations.py",
}


class Pieces(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return piece_of(nodeid)


def piece_of(nodeid: str) -> str:
    path = nodeid.partition("::")[0]
    return "time" if path in MEASURING_TIME else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Pieces | None:
    return Pieces(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pieces with slow tests come first, so that none is left for one worker at the end."""
    if XDIST_WORKER in os.environ:
        slow = {piece_of(item.nodeid) for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: piece_of(item.nodeid) not in slow)
