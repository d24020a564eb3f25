"""Which way of computing an operation is taken, by a clock that the test sets."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import shared.vision  # noqa: F401  (makes diffusers importable beside a CPU torch)

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo import config as dynamo

from services.sd_worker.engine.choices import (
    PLAIN,
    Operation,
    Timing,
    Unfit,
    computed,
    leave,
    remember,
    trials,
)
from services.sd_worker.engine.launching import why_not
from services.sd_worker.engine.self_attention import WIDTH
from services.sd_worker.generators import Engine
from services.sd_worker.machine import Machine, machine_of
from services.sd_worker.pipeline import Generator
from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.specs import Recipe
from tests.sd_worker.narrow import CPU, NARROW, narrow_pipeline

VALUES = torch.arange(1.0, 7.0)


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """What is chosen is the process's."""
    trials.known.clear()
    yield
    trials.known.clear()


class Clock:
    """Gives these microseconds one after another."""

    def __init__(self, *microseconds: float) -> None:
        self.left = list(microseconds)

    def __call__(self, work: Callable[[], object], device: torch.device) -> float:
        work()
        return self.left.pop(0)


def operation(**others: Callable[[Tensor, float], Tensor]) -> Operation:
    """Doubling; the number is of no use, but choices are by its value, too."""
    return Operation("double", lambda values, number: values * 2, others, lambda values, number: number > 0)


def added(values: Tensor, number: float) -> Tensor:
    return values + values


def try_out(tried: Operation, *microseconds: float, number: float = 1.0, least_numbers: int = 1) -> None:
    with trials.opened(Timing(Clock(*microseconds), least_numbers), backend=None):
        computed(tried, VALUES, number)


def chosen() -> list[str]:
    return [trial.taken for trial in trials.known.values()]


@pytest.mark.parametrize(("microseconds", "name"), [((5.0, 4.0), "added"), ((4.0, 5.0), PLAIN)])
def test_the_fastest_way_is_taken_from_then_on(microseconds: tuple[float, float], name: str) -> None:
    calls: list[float] = []

    def counted(values: Tensor, number: float) -> Tensor:
        calls.append(number)
        return values + values

    tried = operation(added=counted)
    try_out(tried, *microseconds)
    calls.clear()
    assert computed(tried, VALUES, 1.0).tolist() == (VALUES * 2).tolist()
    assert (chosen(), len(calls)) == ([name], int(name == "added"))


def test_nothing_is_tried_twice_or_where_it_cannot_be_or_for_few_numbers() -> None:
    tried = operation(added=added)
    try_out(tried, 5.0, 4.0)
    try_out(tried)
    try_out(tried, number=-1.0)
    try_out(tried, number=2.0, least_numbers=7)
    assert chosen() == ["added"]


def test_each_shape_type_and_number_has_a_choice_of_its_own() -> None:
    tried = operation(added=added)
    with trials.opened(Timing(Clock(2, 1, 1, 2, 2, 1, 1, 2), 1), backend=None):
        for values, number in ((VALUES, 1.0), (VALUES[:3], 1.0), (VALUES.half(), 1.0), (VALUES, 2.0)):
            computed(tried, values, number)
    assert chosen() == ["added", PLAIN, "added", PLAIN]


def test_more_shapes_are_tried_than_torch_compiles_of_one_function() -> None:
    tried, shapes = operation(added=added), range(1, 6)
    with dynamo.patch(accumulated_recompile_limit=2), trials.opened(Timing(Clock(*[1.0] * 10), 1), backend="eager"):
        for size in shapes:
            computed(tried, torch.ones(size), 1.0)
    assert chosen() == [PLAIN] * len(shapes)


def test_what_comes_before_is_timed_with_every_way_but_is_no_part_of_the_result() -> None:
    seen: list[list[float]] = []

    def counted(values: Tensor, number: float) -> Tensor:
        seen.append(values.tolist())
        return values + values

    tried = operation(added=counted)._replace(before=lambda values: values * 10)
    try_out(tried, 5.0, 4.0)
    assert seen[:2] == [(VALUES * 10).tolist()] * 2
    assert computed(tried, VALUES, 1.0).tolist() == (VALUES * 2).tolist()


def unfit(values: Tensor, number: float) -> Tensor:
    raise Unfit("shared memory")


def out_of_memory(values: Tensor, number: float) -> Tensor:
    raise torch.OutOfMemoryError("none left")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda values, number: values * 2.001, "from torch's result"),
        (lambda values, number: values * float("nan"), "nan from torch's result"),
        (unfit, "Unfit: shared memory"),
        (out_of_memory, "OutOfMemoryError: none left"),
    ],
)
def test_what_is_wrong_or_does_not_run_is_never_taken_and_said(
    wrong: Callable[[Tensor, float], Tensor], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        try_out(operation(wrong=wrong), 5.0, 1.0)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert chosen() == [PLAIN]
    assert reason in record.failures["wrong"]  # type: ignore[attr-defined]


def test_a_later_process_takes_what_was_chosen_before_but_not_by_values_that_were_not_finite(tmp_path: Path) -> None:
    try_out(operation(added=added), 5.0, 4.0)
    before = dict(trials.known)
    with trials.opened(Timing(Clock(5.0), 1), backend=None):
        computed(operation(added=added), torch.full((3,), float("inf")), 1.0)
    assert chosen() == ["added", PLAIN]
    leave(tmp_path)
    trials.known.clear()
    remember(tmp_path)
    assert trials.known == before
    assert [file.name for file in tmp_path.iterdir()] == ["choices.json"]


def test_choices_that_cannot_be_read_are_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "choices.json").write_text('{"double": {"taken": 1}}')
    with pytest.raises(ConfigurationError, match=r"choices\.json does not hold choices of kernels; delete it"):
        remember(tmp_path)


def test_a_cpu_tries_nothing_and_says_so(tmp_path: Path) -> None:
    assert why_not(CPU) == "the device is 'cpu'"
    machine = machine_of(Settings(device="cpu", compile="on", data_dir=tmp_path))
    assert (machine.timing, machine.untimed) == (None, "the device is 'cpu'")
    off = Settings(device="cpu", compile="on", fused_kernels="off", data_dir=tmp_path)
    assert machine_of(off).untimed == "SYNTHCLONE_FUSED_KERNELS is off"


class LastIsFastest:
    """So that of the ways of every operation torch's own is never taken."""

    def __init__(self) -> None:
        self._next = 1e60

    def __call__(self, _work: Callable[[], object], _device: torch.device) -> float:
        self._next /= 2
        return self._next


def no_reference() -> Generator:
    raise AssertionError("the engine draws this itself")


def drawn(recipe: Recipe, dtype: torch.dtype, timing: Timing | None, folder: Path) -> np.ndarray:
    wide = narrow_pipeline(
        block_out_channels=(320, 64, 64, 64), attention_head_dim=8, layers_per_block=1, norm_num_groups=4
    )
    machine = Machine(CPU, batch=1, kernels_dir=folder, timing=timing)
    engine = Engine(wide.to(dtype), no_reference, machine)
    return engine.start(["zero"], [1], recipe).wait().pixels.astype(float)


def test_a_network_of_these_kernels_alone_is_as_exact_as_one_of_torchs(tmp_path: Path) -> None:
    recipe = NARROW.model_copy(update={"steps": 1, "width": 128, "height": 64, "guidance": 1.0})
    exact, torchs = (drawn(recipe, dtype, None, tmp_path) for dtype in (torch.float32, torch.float16))
    fused = drawn(recipe, torch.float16, Timing(LastIsFastest(), 1), tmp_path)
    assert {trial.taken == PLAIN for trial in trials.known.values()} == {False}
    assert {key.split()[0] for key in trials.known} == {
        "group_norm",
        "conv_group_norm",
        "geglu",
        "attention",
        "doubling",
    }
    assert WIDTH == 320 // 8
    assert np.abs(fused - torchs).max() > 0  # they were used
    error, usual = (float(np.sqrt(np.square(images - exact).mean())) for images in (fused, torchs))
    assert error <= 1.5 * usual
