"""What a service has no need for is refused by PostgreSQL."""

import httpx2
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from services.dispatcher.tick import tick
from shared.database import Database
from shared.roles import grant
from shared.settings import Settings
from shared.storage import LocalStore
from tests.roles.conftest import PREFIX, Logins, make_dataset

pytestmark = pytest.mark.postgres


def test_an_autoscaler_sees_the_backlog_alone(
    owner: Database, api: httpx2.Client, login: Logins, place: Settings, objects: LocalStore
) -> None:
    make_dataset(api)
    tick(login("dispatcher"), objects, place, absent={})
    keda = login("keda")
    with keda.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM open_shards")) == 8
    assert refused(keda, "SELECT count(*) FROM shards")


@pytest.mark.parametrize(
    ("service", "statement"),
    [
        ("api", "UPDATE shards SET object_key = 'images/mine.tar'"),
        ("api", "UPDATE shards SET sha256 = '0', state = 'done'"),
        ("api", "DELETE FROM jobs"),
        ("api", "UPDATE jobs SET team_id = 'mine'"),
        ("api", "UPDATE jobs SET result = '{}'"),
        ("api", "UPDATE teams SET max_images = NULL"),
        ("api", "INSERT INTO teams (id, name, created_at) VALUES ('a', 'a', now())"),
        ("api", "UPDATE api_keys SET team_id = 'mine'"),
        ("api", "INSERT INTO api_keys (id, prefix) VALUES ('a', 'a')"),
        ("api", "UPDATE alembic_version SET version_num = '1'"),
        ("api", "CREATE TABLE mine (id int)"),
        ("dispatcher", "SELECT * FROM api_keys"),
        ("dispatcher", "UPDATE shards SET object_key = 'images/mine.tar'"),
        ("dispatcher", "UPDATE jobs SET spec = '{}'"),
        ("dispatcher", "DELETE FROM jobs"),
        ("dispatcher", "UPDATE webhooks SET url = 'https://mine/'"),
        ("worker", "SELECT * FROM api_keys"),
        ("worker", "UPDATE teams SET max_leased_shards = NULL"),
        ("worker", "UPDATE teams SET weight = 1000"),
        ("worker", "DELETE FROM jobs"),
        ("worker", "UPDATE jobs SET spec = '{}'"),
        ("worker", "DELETE FROM shards"),
        ("worker", "INSERT INTO jobs (id) VALUES ('a')"),
        ("worker", "SELECT * FROM webhooks"),
        ("worker", "SELECT * FROM idempotency_keys"),
        ("worker", "DELETE FROM events"),
        ("trainer", "SELECT * FROM api_keys"),
        ("trainer", "UPDATE shards SET object_key = 'images/mine.tar'"),
        ("trainer", "UPDATE jobs SET team_id = 'mine'"),
        ("trainer", "DELETE FROM jobs"),
        ("evaluator", "SELECT * FROM api_keys"),
        ("evaluator", "DELETE FROM metrics"),
        ("evaluator", "UPDATE shards SET sha256 = '0'"),
        ("webhooks", "SELECT * FROM jobs"),
        ("webhooks", "SELECT * FROM api_keys"),
        ("webhooks", "UPDATE webhooks SET url = 'https://mine/'"),
        ("webhooks", "UPDATE webhook_deliveries SET payload = '{}'"),
        ("webhooks", "INSERT INTO webhook_deliveries (id) VALUES (1)"),
    ],
)
def test_what_a_service_has_no_need_for_is_refused(login: Logins, service: str, statement: str) -> None:
    assert refused(login(service), statement)


def refused(database: Database, statement: str) -> bool:
    """By a missing right, and by nothing else."""
    with database.engine.connect() as connection, pytest.raises(ProgrammingError) as error:
        connection.execute(text(statement))
    return isinstance(error.value.orig, psycopg.errors.InsufficientPrivilege)


def test_a_right_that_was_given_by_hand_is_taken_back(owner: Database, login: Logins) -> None:
    with owner.engine.begin() as connection:
        connection.execute(text(f"GRANT ALL ON api_keys, shards TO {PREFIX}worker"))
        connection.execute(text(f"GRANT UPDATE (weight) ON teams TO {PREFIX}worker"))
        grant(connection, prefix=PREFIX)
    worker = login("worker")
    assert refused(worker, "SELECT * FROM api_keys")
    assert refused(worker, "DELETE FROM shards")
    assert refused(worker, "UPDATE teams SET weight = 9")


def test_roles_that_do_not_exist_are_left_out(owner: Database) -> None:
    with owner.engine.begin() as connection:
        assert grant(connection, prefix=f"{PREFIX}nobody_") == []
