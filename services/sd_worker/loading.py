"""The models that a worker can draw, of which it holds one loaded."""

import gc
import logging
from collections.abc import Callable
from pathlib import Path

from shared.errors import ConfigurationError
from shared.models import ModelEntry, registered, verify_weights
from shared.settings import Settings

from .batches import Generator
from .machine import Machine

logger = logging.getLogger(__name__)
MakeGenerator = Callable[[Path, Machine], Generator]


def load_generator(folder: Path, machine: Machine) -> Generator:
    from . import generators  # diffusers takes seconds to import, and not every worker draws with it

    return generators.load_generator(folder, machine)


class Models:
    """`names` are those whose weights are here and are the registered ones; `problems` says why others are not."""

    def __init__(self, settings: Settings, machine: Machine, make_generator: MakeGenerator) -> None:
        self.names: list[str] = []
        self.problems: dict[str, str] = {}
        self._settings, self._machine, self._make = settings, machine, make_generator
        self._loaded: tuple[str, Generator] | None = None
        for name, entry in registered(settings).items():
            try:
                verify_weights(settings, entry)
                self.names.append(name)
            except ConfigurationError as problem:
                self._tell(name, problem.detail)

    @property
    def generator(self) -> Generator:
        """Of the model that was loaded last."""
        assert self._loaded is not None
        return self._loaded[1]

    def load(self, entry: ModelEntry) -> None:
        """Raises ConfigurationError where this machine cannot take the model."""
        if self._loaded is None or self._loaded[0] != entry.name:
            self._loaded = None
            gc.collect()  # a compiled network is in cycles, and the next one may need its memory
            machine = self._machine._replace(dtype=entry.dtype)
            self._loaded = (entry.name, self._make(entry.path(self._settings), machine))

    def leave_out(self, name: str, problem: str) -> None:
        self.names.remove(name)
        self._tell(name, problem)

    def _tell(self, name: str, problem: str) -> None:
        logger.warning("model cannot be used here", extra={"model": name, "reason": problem})
        self.problems[name] = problem
