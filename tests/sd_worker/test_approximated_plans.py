"""Which evaluations an approximation leaves out, worked out by hand."""

import pytest

from services.sd_worker.engine.approximations import plan_evaluations
from services.sd_worker.engine.schedule import make_schedule
from services.sd_worker.pipeline import SCHEDULERS
from shared.approximations import Approximation, count_evaluations
from tests.sd_worker.narrow import SAMPLER_CONFIG


def guided(count: int, *interval: float) -> list[int]:
    approximation = Approximation(guidance_interval=(interval[0], interval[1]))
    plan = plan_evaluations(count, approximation, has_guidance=True)
    return [number for number, each in enumerate(plan) if each.is_guided]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.2, 0.8), [2, 3, 4, 5, 6, 7]),
        ((0.0, 0.5), [0, 1, 2, 3, 4]),
        ((0.5, 1.0), [5, 6, 7, 8, 9]),
        ((0.14, 0.26), [1, 2]),  # whose middles are 0.15 and 0.25
        ((0.15, 0.25), [1]),  # the beginning belongs to the interval, the end does not
        ((0.01, 0.02), []),
    ],
)
def test_an_evaluation_is_guided_where_the_middle_of_its_share_lies_in_the_interval(
    interval: tuple[float, float], expected: list[int]
) -> None:
    assert guided(10, *interval) == expected


@pytest.mark.parametrize("steps", [2, 3, 7, 15, 50, 51, 1000])
def test_an_interval_as_long_as_a_step_holds_an_evaluation_wherever_it_begins(steps: int) -> None:
    starts = [begin / 100 for begin in range(100) if begin / 100 + 1 / steps <= 1]
    assert [start for start in starts if not guided(steps, start, start + 1 / steps)] == []


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
def test_a_request_is_refused_by_as_many_evaluations_as_the_sampler_makes(name: str, steps: int) -> None:
    schedule = make_schedule(SCHEDULERS[name].from_config(SAMPLER_CONFIG), steps)
    assert count_evaluations(name, steps) == len(schedule.input_scales)


def whole(count: int, every: int | None, *, interval: tuple[float, float] | None = None) -> list[int]:
    approximation = Approximation(reuse_every=every, guidance_interval=interval)
    plan = plan_evaluations(count, approximation, has_guidance=True)
    return [number for number, each in enumerate(plan) if each.is_whole]


def test_one_in_so_many_is_whole_from_the_first() -> None:
    assert whole(10, 3) == [0, 3, 6, 9]
    assert whole(10, 10) == [0]


def test_where_guidance_begins_an_evaluation_is_whole_and_the_count_begins_again() -> None:
    """Guided are 2 to 7."""
    assert whole(10, 3, interval=(0.2, 0.8)) == [0, 2, 5, 8]


def test_without_reuse_every_evaluation_is_whole() -> None:
    assert whole(5, None, interval=(0.2, 0.8)) == [0, 1, 2, 3, 4]


def test_without_guidance_nothing_is_guided() -> None:
    plan = plan_evaluations(4, Approximation(reuse_every=2), has_guidance=False)
    assert [(each.is_guided, each.is_whole) for each in plan] == [(False, True), (False, False)] * 2
