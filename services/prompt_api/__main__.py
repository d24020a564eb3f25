"""`python -m services.prompt_api`: serve until told to stop."""

import logging
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

logger = logging.getLogger(__name__)
GRACE_SECONDS = 5


class Server(uvicorn.Server):
    """Tells event streams to end first: uvicorn waits for open answers before anything else hears of a shutdown."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        assert isinstance(app, FastAPI)
        app.state.stopping.set()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    listener = listen(settings.api_host, settings.api_port)
    check_database(settings)
    config = uvicorn.Config(
        create_app(settings), log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
    )
    logger.info("listening", extra={"host": settings.api_host, "port": listener.getsockname()[1]})
    Server(config).run([listener])


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
