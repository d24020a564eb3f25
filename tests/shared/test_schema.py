from datetime import UTC, datetime

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from shared.database import Database
from shared.errors import ConfigurationError
from shared.migrate import grant_rights
from shared.schema import MIGRATIONS, alembic_config, check, upgrade
from shared.tables import Base
from tests.rows import add_dataset, plan_all


@pytest.fixture
def migrated(database: Database) -> Database:
    """The test database at the newest schema, whatever the test before did to it."""
    upgrade(database)
    return database


def test_the_migrations_make_exactly_the_declared_tables(migrated: Database) -> None:
    with migrated.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_history_has_one_head() -> None:
    assert len(ScriptDirectory(str(MIGRATIONS)).get_heads()) == 1


def test_the_schema_goes_down_and_up_again_with_rows_in_it(migrated: Database) -> None:
    with migrated.write() as session:
        job = add_dataset(session, images={"a": 10})
    plan_all(migrated, job.id)
    if not migrated.is_sqlite:
        grant_rights(migrated)
    with alembic_config(migrated.engine) as config:
        command.downgrade(config, "base")
    assert inspect(migrated.engine).get_table_names() == ["alembic_version"]
    upgrade(migrated)
    check(migrated)


def test_links_are_not_counted_beside_workers_of_the_version_before(migrated: Database) -> None:
    with alembic_config(migrated.engine) as config:
        command.downgrade(config, "0001")
    columns = "id, kind, host, device, models, busy, started_at, seen_at"
    worker = f"INSERT INTO workers ({columns}) VALUES ('w', 'generate', 'h', 'cpu', '[]', false, :at, :at)"
    with migrated.engine.begin() as connection:
        connection.execute(text(worker), {"at": datetime.now(UTC)})
    with pytest.raises(ConfigurationError, match="1 workers of the version before are alive; stop them"):
        upgrade(migrated)
    with migrated.engine.begin() as connection:
        connection.execute(text("DELETE FROM workers"))
    upgrade(migrated)
    check(migrated)


def test_an_unmigrated_database_names_the_remedy() -> None:
    with pytest.raises(ConfigurationError, match="synthclone migrate"):
        check(Database("sqlite://"))


def test_a_database_of_a_newer_version_is_refused_by_check_and_by_upgrade(migrated: Database) -> None:
    with migrated.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        with pytest.raises(ConfigurationError, match="newer synthclone"):
            check(migrated)
        with pytest.raises(ConfigurationError, match="newer synthclone"):
            upgrade(migrated)
    finally:
        with migrated.engine.begin() as connection:
            head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
            connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": head})
