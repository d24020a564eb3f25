"""Log lines on stderr: coloured in a terminal, one JSON object a line in containers."""

import logging
import sys
from typing import Literal

import structlog


def configure_logs(log_format: Literal["console", "json"], *, level: int = logging.INFO) -> None:
    """Send every standard-library and structlog record through one formatter; `extra` fields are kept."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx2", "alembic.runtime", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
