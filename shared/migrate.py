"""`python -m shared.migrate`: newest schema, the services' rights in it, and the bucket."""

import logging

from .database import Database
from .entry import run
from .roles import grant
from .schema import upgrade
from .settings import Settings
from .storage import S3Store, open_store

logger = logging.getLogger(__name__)


def migrate(settings: Settings) -> None:
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.sqlalchemy_url)
    upgrade(database)
    if not database.is_sqlite:
        grant_rights(database)
    store = open_store(settings)
    if isinstance(store, S3Store):
        store.create_bucket()
    store.check()
    logger.info("schema and object store are ready")


def grant_rights(database: Database) -> None:
    with database.engine.begin() as connection:
        roles = grant(connection)
    # None: every service logs in as the owner, as on a machine for development.
    logger.info("rights granted", extra={"roles": roles})


if __name__ == "__main__":
    run(migrate)
