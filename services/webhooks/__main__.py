"""`python -m services.webhooks`: sends until told to stop; waits out a database that is away."""

import logging
import signal
import ssl
import threading

import anyio
from sqlalchemy.exc import SQLAlchemyError

from shared.database import Database
from shared.entry import run
from shared.schema import open_database
from shared.settings import Settings
from shared.webhooks import signing_pepper

from .outbox import Message, Outcome, claim, settle
from .post import Door, post

logger = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    serve(settings, Door(settings.webhook_hosts))


def serve(settings: Settings, door: Door) -> None:
    signing_pepper(settings)
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    database, tls = open_database(settings.sqlalchemy_url), ssl.create_default_context()
    logger.info("sending webhooks", extra={"hosts": settings.webhook_hosts})
    while not stop.is_set():
        try:
            sent = send_due(database, settings, door, tls=tls)
        except SQLAlchemyError as error:
            logger.warning("outbox not read, trying again", extra={"reason": str(error)})
            sent = 0
        if not sent:
            stop.wait(settings.poll_seconds)


def send_due(database: Database, settings: Settings, door: Door, *, tls: ssl.SSLContext) -> int:
    """Claim what is due, send it all at once, write down what came of it; returns how many."""
    with database.write() as session:
        messages = claim(session)
    if messages:
        outcomes = anyio.run(send_all, messages, settings, door, tls)
        for message, result in zip(messages, outcomes, strict=True):
            note(database, settings, message, result)
    return len(messages)


async def send_all(messages: list[Message], settings: Settings, door: Door, tls: ssl.SSLContext) -> list[Outcome]:
    pepper = signing_pepper(settings)
    outcomes: dict[int, Outcome] = {}

    async def send(message: Message) -> None:
        outcomes[message.delivery_id] = await post(message, door, pepper=pepper, tls=tls)

    async with anyio.create_task_group() as group:
        for message in messages:
            group.start_soon(send, message)
    return [outcomes[message.delivery_id] for message in messages]


def note(database: Database, settings: Settings, message: Message, result: Outcome) -> None:
    with database.write() as session:
        settle(session, message, result, give_up_hours=settings.webhook_hours)
    ids = {"webhook_id": message.webhook_id, "message_id": message.id, "attempt": message.attempts}
    if result.error is None:
        logger.info("webhook delivered", extra=ids)
    else:
        logger.warning("webhook not delivered", extra=ids | {"reason": result.error})


if __name__ == "__main__":
    run(main)
