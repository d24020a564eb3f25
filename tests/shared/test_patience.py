import threading

import pytest
from sqlalchemy.exc import OperationalError

from shared.errors import Unavailable
from shared.patience import insist


class Part:
    """Refuses so many times before it answers."""

    def __init__(self, refusals: int, error: Exception | None = None) -> None:
        self.refusals, self.calls = refusals, 0
        self.error = error or Unavailable("no bucket")

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.refusals:
            raise self.error
        return "stored"


@pytest.mark.parametrize("error", [Unavailable("no bucket"), OperationalError("COMMIT", None, Exception("gone"))])
def test_what_a_part_that_is_away_refuses_is_tried_again(error: Exception) -> None:
    part = Part(1, error)
    assert insist(part, stop=threading.Event(), seconds=60) == "stored"
    assert part.calls == 2


def test_a_part_that_stays_away_is_given_up_in_the_end() -> None:
    part = Part(1000)
    with pytest.raises(Unavailable, match="no bucket"):
        insist(part, stop=threading.Event(), seconds=0.5)
    assert part.calls == 2


def test_once_told_to_stop_there_is_one_try_more() -> None:
    stop, part = threading.Event(), Part(1000)
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Unavailable):
        insist(part, stop=stop, seconds=60)
    assert part.calls == 2


def test_pointless_waiting_ends_at_once() -> None:
    part = Part(1000)
    with pytest.raises(Unavailable):
        insist(part, stop=threading.Event(), seconds=60, is_pointless=lambda: True)
    assert part.calls == 1


def test_a_bug_is_not_tried_again() -> None:
    part = Part(1, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        insist(part, stop=threading.Event(), seconds=60)
    assert part.calls == 1
