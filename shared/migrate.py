"""`python -m shared.migrate`: bring the database to the newest schema and create the bucket."""

import logging

from .database import Database
from .entry import run
from .schema import upgrade
from .settings import Settings
from .storage import S3Store, open_store

logger = logging.getLogger(__name__)


def migrate(settings: Settings) -> None:
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    upgrade(Database(settings.sqlalchemy_url))
    store = open_store(settings)
    if isinstance(store, S3Store):
        store.create_bucket()
    store.check()
    logger.info("schema and object store are ready")


if __name__ == "__main__":
    run(migrate)
