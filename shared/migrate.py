"""`python -m shared.migrate`: bring the database to the newest schema and create the bucket."""

import logging
import sys

from .database import Database
from .errors import AppError
from .logs import configure_logs
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
    configured = Settings()
    configure_logs(configured.log_format)
    try:
        migrate(configured)
    except AppError as problem:
        logger.error(problem.detail)
        sys.exit(problem.exit_code)
