import time

import pytest

from shared.database import Database

pytestmark = pytest.mark.postgres


@pytest.fixture
def two(postgres_url: str) -> tuple[Database, Database]:
    """The engines of two processes; SQLite has one dispatcher by construction."""
    return Database(postgres_url), Database(postgres_url)


def test_one_of_two_leads_and_the_other_follows_when_it_is_done(two: tuple[Database, Database]) -> None:
    with two[0].leadership() as first, two[1].leadership() as second:
        assert (first, second) == (True, False)
    with two[1].leadership() as second:
        assert second


def test_locks_of_different_duties_do_not_meet(two: tuple[Database, Database]) -> None:
    with two[0].leadership(1) as first, two[1].leadership(2) as second:
        assert (first, second) == (True, True)


def test_a_leader_that_is_stopped_loses_the_lead_and_goes_on_without_harm(two: tuple[Database, Database]) -> None:
    with two[0].leadership(silent_seconds=0.2) as leading:
        assert leading
        assert wait_until_leading(two[1])
        with two[0].write() as session:
            assert session.connection().exec_driver_sql("SELECT 1").scalar() == 1
    with two[0].leadership() as again:
        assert again


def wait_until_leading(database: Database) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with database.leadership() as leading:
            if leading:
                return True
        time.sleep(0.05)
    return False


def test_an_error_in_the_leaders_work_is_not_hidden_by_the_lost_lead(two: tuple[Database, Database]) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_after_losing_the_lead(*two)


def fail_after_losing_the_lead(first: Database, second: Database) -> None:
    with first.leadership(silent_seconds=0.2):
        assert wait_until_leading(second)
        raise ZeroDivisionError
