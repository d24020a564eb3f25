"""What a result file says about where it was measured."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

Facts = dict[str, str | int | None]


def machine() -> Facts:
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}


def versions(packages: Sequence[str]) -> Facts:
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
