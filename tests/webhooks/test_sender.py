"""The sender as a process: every event arrives, also when senders are killed or several run."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import func, select, update

from shared.database import Database, database_now
from shared.tables import WebhookDelivery
from tests.processes import Processes, kill, wait_until
from tests.webhooks.conftest import AddWebhook
from tests.webhooks.receiver import Receiver, answer_status

SENDER = "tests.webhooks.loopback_sender"
EndJob = Callable[[], str]


@pytest.fixture
def processes(tmp_path: Path, database_url: str, receiver: Receiver) -> Iterator[Processes]:
    environment = {
        "SYNTHCLONE_DATABASE_URL": database_url,
        "SYNTHCLONE_WEBHOOK_HOSTS": f'["{receiver.place}"]',
        "SYNTHCLONE_KEY_PEPPER": "a pepper of thirty-two characters",
        "SYNTHCLONE_POLL_SECONDS": "0.05",
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
    }
    with Processes(tmp_path, environment) as processes:
        yield processes


def delivered(database: Database) -> int:
    with database.read() as session:
        query = select(func.count()).where(WebhookDelivery.delivered_at.is_not(None))
        return session.scalar(query.select_from(WebhookDelivery)) or 0


def ids(receiver: Receiver) -> list[str]:
    return [headers["webhook-id"] for _, headers, _ in receiver.requests]


def make_due(database: Database) -> None:
    """The lease of the dead sender runs out."""
    with database.write() as session:
        session.execute(update(WebhookDelivery).values(next_at=database_now(session)))


def test_an_event_whose_sender_was_killed_before_it_could_note_the_answer_comes_again_with_the_same_id(
    database: Database, receiver: Receiver, processes: Processes, add_webhook: AddWebhook, end_job: EndJob
) -> None:
    arrived, killed = Event(), Event()

    def answer_too_late(handler: BaseHTTPRequestHandler) -> None:
        arrived.set()
        killed.wait(30)

    receiver.answer = answer_too_late
    add_webhook(receiver.url), end_job()
    first = processes.module(SENDER)
    assert arrived.wait(30)
    kill(first)
    killed.set()
    receiver.answer = answer_status(200)
    make_due(database)
    processes.module(SENDER)
    wait_until(lambda: delivered(database) or None, seconds=30, what="delivery")
    assert len(ids(receiver)) == 2
    assert len(set(ids(receiver))) == 1


def test_several_senders_deliver_every_event_and_no_event_twice_at_the_same_time(
    database: Database, receiver: Receiver, processes: Processes, add_webhook: AddWebhook, end_job: EndJob
) -> None:
    add_webhook(receiver.url)
    for _ in range(3):
        processes.module(SENDER)
    for _ in range(40):
        end_job()
    wait_until(lambda: delivered(database) == 40 or None, seconds=60, what="40 deliveries")
    assert Counter(Counter(ids(receiver)).values()) == {1: 40}


def test_a_sender_told_to_stop_finishes_what_it_sends(
    database: Database, receiver: Receiver, processes: Processes, add_webhook: AddWebhook, end_job: EndJob
) -> None:
    arrived = Event()

    def answer_slowly(handler: BaseHTTPRequestHandler) -> None:
        arrived.set()
        time.sleep(0.5)
        answer_status(200)(handler)

    receiver.answer = answer_slowly
    add_webhook(receiver.url), end_job()
    sender = processes.module(SENDER)
    assert arrived.wait(30)
    sender.terminate()
    assert sender.wait(30) == 0
    assert delivered(database) == 1


def test_a_sender_without_allowed_hosts_says_what_to_set(processes: Processes, tmp_path: Path) -> None:
    sender = processes.module("services.webhooks", SYNTHCLONE_WEBHOOK_HOSTS="[]")
    assert sender.wait(30) == 78
    assert "SYNTHCLONE_WEBHOOK_HOSTS" in processes.logs()
