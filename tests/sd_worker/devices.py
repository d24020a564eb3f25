"""A generator that behaves as an accelerator: a batch is drawn when it is waited for, not when it is started."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from services.sd_worker.drawn import Drawn, Pending
from services.sd_worker.machine import Machine
from shared.specs import Recipe
from tests.faults.noise import Noise

Fault = Callable[[str, Sequence[str]], None]


class Device:
    """Keeps a list of what was asked of it, such as "start 0" and "wait 0"; `fault` may raise at any of them."""

    def __init__(self, fault: Fault = lambda step, prompts: None) -> None:
        self.steps: list[str] = []
        self.started: list[tuple[Recipe, int]] = []  # recipe and number of images
        self._fault = fault

    def make(self, folder: Path, machine: Machine) -> Self:
        self.noise = Noise(folder, machine)
        return self

    def start(self, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe) -> Pending:
        number = len(self.started)
        self.started.append((recipe, len(prompts)))
        self.take_step(f"start {number}", prompts)
        return Queued(self, number, prompts, seeds, recipe)

    def take_step(self, name: str, prompts: Sequence[str]) -> None:
        self.steps.append(name)
        self._fault(name, prompts)


class Queued:
    is_ready = False

    def __init__(self, device: Device, number: int, prompts: Sequence[str], seeds: Sequence[int], recipe: Recipe):
        self._device, self._number = device, number
        self._prompts, self._seeds, self._recipe = prompts, seeds, recipe

    def wait(self) -> Drawn:
        self._device.take_step(f"wait {self._number}", self._prompts)
        return self._device.noise.start(self._prompts, self._seeds, self._recipe).wait()
