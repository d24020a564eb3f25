import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from shared.database import PING_AFTER_SECONDS, Database, clock, database_now
from shared.tables import Team

pytestmark = pytest.mark.postgres


def end_all_but_the_asking(url: str) -> None:
    with Database(url).write() as session:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        session.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))


def answer(database: Database) -> int:
    with database.read() as session:
        return session.scalars(text("SELECT 1")).one()


def test_connections_of_before_a_restart_are_replaced_unseen(postgres_url: str) -> None:
    database = Database(postgres_url)
    assert answer(database) == 1
    end_all_but_the_asking(postgres_url)
    time.sleep(PING_AFTER_SECONDS)
    assert answer(database) == 1


def test_a_connection_that_dies_in_use_is_an_error_once(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(OperationalError), database.read() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert answer(database) == 1


def test_the_clock_in_a_statement_is_that_of_the_database(database: Database) -> None:
    with database.write() as session:
        before = database_now(session)
        session.add(Team(id="t", name="t", created_at=clock(90.5)))
        session.flush()
        session.expire_all()
        ahead = (session.get_one(Team, "t").created_at - before).total_seconds()
    assert 90.4 < ahead < 110
