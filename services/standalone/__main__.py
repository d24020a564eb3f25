"""`python -m services.standalone`: what `synthclone up` runs, configured by SYNTHCLONE_* variables alone."""

import logging
import sys

from shared.errors import AppError
from shared.logs import configure_logs
from shared.settings import Settings
from shared.tasks import stop_on_signal

from .up import up

logger = logging.getLogger(__name__)


def announce(url: str) -> None:
    logger.info("ready", extra={"url": url})


if __name__ == "__main__":
    configured = Settings()
    configure_logs(configured.log_format)
    try:
        up(configured, stop_on_signal(), announce=announce)
    except AppError as problem:
        logger.error(problem.detail)
        sys.exit(problem.exit_code)
