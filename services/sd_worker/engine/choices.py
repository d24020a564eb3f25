"""Which way of computing an operation is taken for a shape: the fastest of those tried on this device."""

import logging
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from shared.errors import ConfigurationError

from .compiled import Compiled

logger = logging.getLogger(__name__)
FILE = "choices.json"
PLAIN = "torch"
# The other ways cost a pass of the host through Python each, which only large tensors hide.
LEAST_NUMBERS = 2**24
# Of a type's rounding: outputs further from torch's, root mean square, are wrong and not rounded otherwise.
MOST_APART = 4
CALLS, MEASUREMENTS = 10, 3
ASLEEP_CYCLES = 20_000_000  # about 10 ms: the host starts all calls meanwhile, so that its own time does not count

Compute = Callable[..., Tensor]
# (calculation, device) to microseconds.
Clock = Callable[[Callable[[], object], torch.device], float]


class Timing(NamedTuple):
    """How operations of at least so many numbers are timed."""

    clock: Clock
    least_numbers: int = LEAST_NUMBERS


class Unfit(Exception):
    """A kernel that this device or this Triton cannot build or hold."""


class Operation(NamedTuple):
    """Of tensors and numbers. `others` compute what `plain` does, up to rounding, where `takes` says of the same
    arguments that they can. `before` stands for what computes the first of them in the network, where it is kept for
    others, too: a compiler may join that to torch's own way, so it is timed with it.
    """

    name: str
    plain: Compute
    others: Mapping[str, Compute]
    takes: Callable[..., bool]
    before: Callable[[Tensor], Tensor] | None = None

    def within(self, compute: Compute) -> Callable[..., tuple[Tensor, Tensor]]:
        """In this way, as the network has it: the first argument as it was then, and the result.

        A function with code of its own: torch keeps with the code what it compiled, and no more than so much.
        """

        def both(first: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
            kept = first if self.before is None else self.before(first)
            return kept, compute(kept, *rest)

        return FunctionType(both.__code__.replace(), both.__globals__, self.name, closure=both.__closure__)


class Trial(BaseModel):
    """Microseconds, and the distance from torch's result over that result's size, both root mean squares."""

    model_config = ConfigDict(frozen=True)

    taken: str
    microseconds: dict[str, float]
    apart: dict[str, float]
    failures: dict[str, str]

    @property
    def is_of_finite_values(self) -> bool:
        return all(math.isfinite(each) for each in self.apart.values())


KNOWN = TypeAdapter(dict[str, Trial])


class Trials:
    """Of this process, as all of its networks compute on one device."""

    def __init__(self) -> None:
        self.known: dict[str, Trial] = {}
        self._timing: Timing | None = None
        self._backend: str | Callable[..., object] | None = None

    @property
    def are_open(self) -> bool:
        return self._timing is not None

    @contextmanager
    def opened(self, timing: Timing, backend: str | Callable[..., object] | None) -> Iterator[None]:
        """Inside it, an operation that is met with new shapes is tried in all ways, with the values it is met with.

        `backend` compiles each of them, as the network is compiled.
        """
        self._timing, self._backend = timing, backend
        try:
            yield
        finally:
            self._timing = None

    def meet(self, operation: Operation, key: str, args: tuple[object, ...]) -> None:
        assert self._timing is not None
        numbers = max(arg.numel() for arg in args if isinstance(arg, Tensor))
        if key not in self.known and numbers >= self._timing.least_numbers and operation.takes(*args):
            self.known[key] = self._tried(operation, args, self._timing.clock)
            log = logger.warning if self.known[key].failures else logger.info
            log("kernel chosen", extra={"operation": key, **self.known[key].model_dump()})

    def _tried(self, operation: Operation, args: tuple[object, ...], clock: Clock) -> Trial:
        device = next(arg.device for arg in args if isinstance(arg, Tensor))

        def ready(compute: Compute) -> Callable[..., tuple[Tensor, Tensor]]:
            whole = operation.within(compute)
            return whole if self._backend is None else Compiled(whole, self._backend)

        def timed(ready: Callable[..., tuple[Tensor, Tensor]]) -> float:
            return round(clock(lambda: ready(*args), device), 1)

        plain = ready(operation.plain)
        _, expected = plain(*args)
        microseconds = {PLAIN: timed(plain)}
        apart: dict[str, float] = {}
        failures: dict[str, str] = {}
        for name, compute in operation.others.items():
            try:
                other = ready(compute)
                apart[name] = distance(other(*args)[1], expected)
                if apart[name] <= MOST_APART * torch.finfo(expected.dtype).eps:
                    microseconds[name] = timed(other)
                else:  # NaN, too
                    failures[name] = f"{apart[name]:.2g} from torch's result"
            except (Unfit, torch.OutOfMemoryError) as error:
                failures[name] = f"{type(error).__name__}: {error}"
        return Trial(
            taken=min(microseconds, key=microseconds.__getitem__),
            microseconds=microseconds,
            apart=apart,
            failures=failures,
        )


trials = Trials()


def computed(operation: Operation, *args: Tensor | float | None) -> Tensor:
    """In the way that was the fastest one for such arguments, torch's own where none was tried."""
    shapes = [tuple(arg.shape) if isinstance(arg, Tensor) else arg for arg in args]
    dtype = next(arg.dtype for arg in args if isinstance(arg, Tensor))
    if trials.are_open:
        trials.meet(operation, key_of(operation.name, dtype, shapes), args)
        return operation.plain(*args)
    name = taken(operation.name, dtype, shapes)
    return operation.plain(*args) if name == PLAIN else operation.others[name](*args)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch has no types there
def taken(name: str, dtype: torch.dtype, shapes: Sequence[object]) -> str:
    """Part of a compiled graph as it is when that is traced."""
    trial = trials.known.get(key_of(name, dtype, shapes))
    return PLAIN if trial is None else trial.taken


def key_of(name: str, dtype: torch.dtype, shapes: Sequence[object]) -> str:
    parts = ["x".join(map(str, shape)) if isinstance(shape, tuple) else str(shape) for shape in shapes]
    return " ".join([name, str(dtype).removeprefix("torch."), *parts])


def distance(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|; NaN where either is not finite."""
    dtype = torch.promote_types(expected.dtype, torch.float32)
    difference = torch.linalg.vector_norm(found - expected, dtype=dtype)
    return float(difference / torch.linalg.vector_norm(expected, dtype=dtype))


def gpu_clock(work: Callable[[], object], device: torch.device) -> float:
    """Microseconds of the GPU alone for one call of `work`, after one that is not timed."""
    work()
    return statistics.median(gpu_milliseconds(work, device) for _ in range(MEASUREMENTS)) * 1000 / CALLS


def gpu_milliseconds(work: Callable[[], object], device: torch.device) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        torch.cuda._sleep(ASLEEP_CYCLES)
        begin.record()
        for _ in range(CALLS):
            work()
        end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def remember(folder: Path) -> None:
    """Takes over what an earlier process chose and left in the folder. Raises ConfigurationError."""
    file = folder / FILE
    if not file.exists():
        return
    try:
        trials.known.update(KNOWN.validate_json(file.read_bytes()))
    except ValidationError as error:
        raise ConfigurationError(
            f"{file} does not hold choices of kernels; delete it, and they are made anew"
        ) from error


def leave(folder: Path) -> None:
    """For the next process: what `remember` reads. Replaced as a whole, so that no reader sees a part of it.

    What met a NaN is left out: a model that overflows says nothing of the kernels, which others use, too.
    """
    told = {key: trial for key, trial in trials.known.items() if trial.is_of_finite_values}
    unfinished = folder / f"{FILE}.{os.getpid()}"
    unfinished.write_bytes(KNOWN.dump_json(told, indent=1))
    unfinished.replace(folder / FILE)
