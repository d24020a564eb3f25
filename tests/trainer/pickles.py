"""What a pickle that runs code looks like; whoever loads it makes the file."""

import pickle
from pathlib import Path


class MakesFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._path,)


def hostile_pickle(path: Path) -> bytes:
    return pickle.dumps({"network.weight": MakesFile(path)})
