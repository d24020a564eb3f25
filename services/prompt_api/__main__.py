"""`python -m services.prompt_api`: serve until told to stop."""

import logging
import resource
import socket

import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from shared import schema
from shared.database import Database
from shared.entry import run
from shared.errors import ConfigurationError, Unavailable
from shared.settings import Settings

from .app import create_app
from .connections import LimitedConnection

logger = logging.getLogger(__name__)
GRACE_SECONDS = 5
# Files that are no event stream: other requests, database connections, logs.
OTHER_FILES = 1000


class Server(uvicorn.Server):
    """Tells event streams to end first: uvicorn waits for open answers before anything else hears of a shutdown."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        assert isinstance(app, FastAPI)
        app.state.event_hub.stop()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    listener = listen(settings.api_host, settings.api_port)
    check_database(settings)
    allow_open_files(settings.max_streams + OTHER_FILES)
    logger.info("listening", extra={"host": settings.api_host, "port": listener.getsockname()[1]})
    Server(server_config(create_app(settings), grace_seconds=GRACE_SECONDS)).run([listener])


def server_config(app: FastAPI, *, grace_seconds: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=LimitedConnection,
        ws="none",
        server_header=False,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=grace_seconds,
    )


def allow_open_files(count: int) -> None:
    """Every open stream is an open file, of which many systems allow 1,024 unless asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < count:
        logger.warning("too few open files are allowed for every stream", extra={"allowed": most, "wanted": count})


def listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port} ({error.strerror}); stop what uses it or set SYNTHCLONE_API_PORT"
        ) from error


def check_database(settings: Settings) -> None:
    database = Database(settings.sqlalchemy_url)
    try:
        schema.check(database)
    except OperationalError as error:
        raise Unavailable(f"the database does not answer: {error.orig}; is it up, and was it migrated?") from error
    finally:
        database.engine.dispose()


if __name__ == "__main__":
    run(serve)
