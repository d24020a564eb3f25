import pytest

from services.trainer.schedule import Schedule


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (3, 0.4), (4, 0.4), (7, 0.2000005), (9, 0.0267954919)])
def test_the_rate_rises_in_a_line_and_falls_as_half_a_cosine(step: int, rate: float) -> None:
    schedule = Schedule(peak=0.4, final=1e-6, warmup_steps=4, steps=10)
    assert schedule.rate(step) == pytest.approx(rate, rel=1e-4)


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert Schedule(peak=0.4, final=1e-6, warmup_steps=0, steps=10).rate(0) == 0.4


def test_a_warm_up_longer_than_the_training_only_rises() -> None:
    schedule = Schedule(peak=1.0, final=1e-6, warmup_steps=100, steps=10)
    assert [schedule.rate(step) for step in (0, 9)] == [0.01, 0.1]
