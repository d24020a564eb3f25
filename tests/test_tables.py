"""What tests note for the end of a run is printed there, though pytest hides their output."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.parametrize("team", ["one", "two"])
def test_passes(team, report, tally):
    report("shares", ("team", "claims"), [(team, 7)])
    for _ in range(3):
        tally("requests", "sent")
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_tables_of_several_tests_are_printed_as_one(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_inner.py").write_text(TESTS)
    options = ["-p", "tests.tables", "-p", "no:cacheprovider", "-n", workers, "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", *options, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shown = [line for line in done.stdout.splitlines() if line.startswith(("team", "one", "two", "sent"))]
    assert shown == ["team  claims", "one        7", "two        7", "sent      2       6"]
