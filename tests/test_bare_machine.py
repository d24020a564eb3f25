"""On a machine that lacks a server's programs the tests say so and go on."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_without_the_postgresql_client_its_tests_are_skipped_with_the_reason(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/shared/test_schema.py"]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:]
    assert "PostgreSQL's createdb is not installed" in done.stdout
