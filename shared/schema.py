"""The database's schema: bring it up to date, and refuse one this code does not know."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, func, select
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from .database import LOCK_SECONDS, Database, database_now
from .errors import ConfigurationError
from .tables import Team

MIGRATIONS = Path(__file__).parent / "migrations"
DEFAULT_TEAM = "default"
MIGRATION_LOCK = 0x5C10_0E02


@contextmanager
def alembic_config(engine: Engine) -> Iterator[Config]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    # Alembic drives its own transaction; on SQLite the write lock makes two migrating processes take turns.
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        yield config


def upgrade(database: Database) -> None:
    """To the newest schema, with the default team in it."""
    with alembic_config(database.engine) as config:
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise newer_schema(error) from error
    create_default_team(database)


def newer_schema(error: CommandError) -> ConfigurationError:
    return ConfigurationError(
        f"the database was made by a newer synthclone ({error}); update this installation, or choose another database"
    )


def create_default_team(database: Database) -> None:
    insert = sqlite_insert if database.is_sqlite else postgres_insert
    with database.write() as session:
        row = {"id": DEFAULT_TEAM, "name": DEFAULT_TEAM, "created_at": database_now(session)}
        session.execute(insert(Team).values(row).on_conflict_do_nothing())


def check(database: Database) -> None:
    """Raise ConfigurationError unless the schema is exactly the one this code was written for."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    with database.engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found is None or (found != head and known(found)):
        raise ConfigurationError(f"the database is at schema {found}, needed is {head}; run `synthclone migrate`")
    if found != head:
        raise ConfigurationError(
            f"the database was made by a newer synthclone (schema {found}); update this installation"
        )


def open_database(url: str, *, lock_seconds: float = LOCK_SECONDS) -> Database:
    """The database, unless its schema is another than this code's (ConfigurationError)."""
    database = Database(url, lock_seconds=lock_seconds)
    check(database)
    return database


def known(revision: str) -> bool:
    try:
        ScriptDirectory(str(MIGRATIONS)).get_revision(revision)
    except CommandError:
        return False
    return True
