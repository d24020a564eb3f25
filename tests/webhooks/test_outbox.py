"""Each message is claimed by one sender at a time and tried until it is delivered, unwanted or too old."""

from collections.abc import Callable, Iterable
from datetime import timedelta

import pytest
from sqlalchemy import update

from services.webhooks.outbox import LEASE_SECONDS, MOST_OF_ONE_WEBHOOK, Message, Outcome, claim, pause_seconds, settle
from shared.database import Database, database_now
from shared.tables import Webhook, WebhookDelivery
from tests.webhooks.conftest import AddWebhook

EndJob = Callable[[], str]
REFUSED = Outcome("status 503")


def claimed(database: Database) -> list[Message]:
    with database.write() as session:
        return claim(session)


def settled(database: Database, messages: Iterable[Message], outcome: Outcome) -> None:
    with database.write() as session:
        for message in messages:
            settle(session, message, outcome, give_up_hours=24)


def wait(database: Database, *, hours: float) -> None:
    """As if all messages were that much older."""
    past = timedelta(hours=hours)
    with database.write() as session:
        rows = session.query(WebhookDelivery).all()
        for row in rows:
            row.created_at, row.next_at = row.created_at - past, row.next_at - past


def delivery(database: Database, delivery_id: int) -> WebhookDelivery:
    with database.read() as session:
        return session.get_one(WebhookDelivery, delivery_id)


def test_a_message_is_claimed_once(database: Database, add_webhook: AddWebhook, end_job: EndJob) -> None:
    webhook, job = add_webhook("https://x/"), end_job()
    (message,) = claimed(database)
    assert (message.webhook_id, message.url, message.attempts) == (webhook, "https://x/", 1)
    assert message.payload["data"]["id"] == job  # type: ignore[call-overload,index]
    assert claimed(database) == []


def test_a_message_of_a_sender_that_died_is_claimed_again_with_the_same_id(
    database: Database, add_webhook: AddWebhook, end_job: EndJob
) -> None:
    add_webhook("https://x/"), end_job()
    (first,) = claimed(database)
    wait(database, hours=(LEASE_SECONDS + 1) / 3600)
    (second,) = claimed(database)
    assert (second.id, second.attempts) == (first.id, 2)


def test_who_was_overtaken_settles_nothing(database: Database, add_webhook: AddWebhook, end_job: EndJob) -> None:
    add_webhook("https://x/"), end_job()
    (first,) = claimed(database)
    wait(database, hours=1)
    (second,) = claimed(database)
    settled(database, [first], Outcome("status 410", gone=True))
    assert delivery(database, second.delivery_id).failed_at is None
    settled(database, [second], Outcome(None))
    assert delivery(database, second.delivery_id).delivered_at is not None


def test_a_refused_message_is_put_off_and_a_delivered_one_never_comes_again(
    database: Database, add_webhook: AddWebhook, end_job: EndJob
) -> None:
    add_webhook("https://x/"), end_job()
    settled(database, claimed(database), REFUSED)
    assert claimed(database) == []
    wait(database, hours=0.01)
    again = claimed(database)
    assert [message.attempts for message in again] == [2]
    settled(database, again, Outcome(None))
    wait(database, hours=2)
    assert claimed(database) == []


def test_pauses_double_from_seconds_to_an_hour_and_are_never_alike() -> None:
    shortest = [min(pause_seconds(attempts) for _ in range(200)) for attempts in (1, 2, 3, 30)]
    assert shortest == [pytest.approx(pause, rel=0.1) for pause in (5, 10, 20, 3600)]
    assert max(pause_seconds(30) for _ in range(200)) <= 5400
    assert len({pause_seconds(1) for _ in range(20)}) == 20


def test_a_receiver_that_is_gone_is_disabled_with_all_that_waits_for_it(
    database: Database, add_webhook: AddWebhook, end_job: EndJob
) -> None:
    webhook = add_webhook("https://x/")
    end_job(), end_job()
    first, second = claimed(database)
    settled(database, [first], Outcome("status 410", gone=True))
    with database.read() as session:
        assert session.get_one(Webhook, webhook).disabled_reason == "its server answered: status 410"
    assert "was disabled" in str(delivery(database, second.delivery_id).last_error)
    end_job()
    assert claimed(database) == []


def test_a_message_nobody_takes_for_a_day_is_given_up_and_its_receiver_disabled(
    database: Database, add_webhook: AddWebhook, end_job: EndJob
) -> None:
    webhook = add_webhook("https://x/")
    end_job()
    wait(database, hours=24.1)
    messages = claimed(database)
    settled(database, messages, REFUSED)
    row = delivery(database, messages[0].delivery_id)
    assert (row.failed_at is not None, row.last_error) == (True, "status 503")
    with database.read() as session:
        assert session.get_one(Webhook, webhook).disabled_reason == "it took no message for 24 hours"


def test_a_receiver_that_takes_other_messages_stays(
    database: Database, add_webhook: AddWebhook, end_job: EndJob
) -> None:
    webhook = add_webhook("https://x/")
    end_job()
    wait(database, hours=24.1)
    end_job()
    refused, taken = sorted(claimed(database), key=lambda message: message.delivery_id)
    settled(database, [taken], Outcome(None))
    settled(database, [refused], REFUSED)
    assert delivery(database, refused.delivery_id).failed_at is not None
    with database.read() as session:
        assert session.get_one(Webhook, webhook).disabled_at is None


def test_one_receiver_cannot_hold_up_the_others(database: Database, add_webhook: AddWebhook, end_job: EndJob) -> None:
    busy = add_webhook("https://busy/")
    for _ in range(40):
        end_job()
    quiet = add_webhook("https://quiet/")
    end_job()
    found = [message.webhook_id for message in claimed(database)]
    assert (found.count(busy), found.count(quiet)) == (MOST_OF_ONE_WEBHOOK, 1)


@pytest.mark.postgres
def test_two_senders_at_once_claim_different_messages(
    database: Database, add_webhook: AddWebhook, end_job: EndJob
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite lets one writer in at a time")
    add_webhook("https://a/"), add_webhook("https://b/"), end_job()
    with database.write() as one, database.write() as other:
        first = claim(one)
        assert claim(other) == []
    assert len(first) == 2
    with database.write() as session:
        session.execute(update(WebhookDelivery).values(next_at=database_now(session)))
    assert len(claimed(database)) == 2
