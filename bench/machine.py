"""Result files: what was measured, and where."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from shared.settings import PROJECT_ROOT

Facts = dict[str, str | int | None]


def machine() -> Facts:
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}


def versions(packages: Sequence[str]) -> Facts:
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def write_result(name: str, facts: Mapping[str, object], packages: Sequence[str]) -> None:
    """`bench/results/<name>.json`."""
    file = PROJECT_ROOT / "bench/results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**facts, "machine": machine(), "versions": versions(packages)}, indent=2) + "\n")
