"""How every process starts: settings, logs, and an expected failure as one line and its exit code."""

import logging
import sys
from collections.abc import Callable

from pydantic import ValidationError

from .errors import AppError, ConfigurationError
from .logs import configure_logs
from .settings import Settings

logger = logging.getLogger(__name__)


def run(main: Callable[[Settings], None]) -> None:
    try:
        settings = Settings()
    except ValidationError as error:
        sys.stderr.write(f"the SYNTHCLONE_* variables do not fit together: {error}\n")
        sys.exit(ConfigurationError.exit_code)
    configure_logs(settings.log_format)
    try:
        main(settings)
    except AppError as problem:
        logger.error(problem.detail)
        sys.exit(problem.exit_code)
