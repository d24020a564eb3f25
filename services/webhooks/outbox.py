"""Messages that are due: claimed by one sender at a time, then delivered, put off or given up.

A claim moves the message's next attempt beyond the time that sending may take. So a sender that dies holds nothing,
and `attempts` is the fence: who was overtaken settles nothing.
"""

import random
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, CursorResult, and_, func, select, update
from sqlalchemy.orm import Session

from shared.database import database_now
from shared.tables import JsonObject, Webhook, WebhookDelivery
from shared.webhooks import message_id

LEASE_SECONDS = 60.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 3600.0
MOST_AT_ONCE, MOST_OF_ONE_WEBHOOK = 32, 4


class Message(NamedTuple):
    delivery_id: int
    webhook_id: str
    url: str
    payload: JsonObject
    created_at: datetime
    attempts: int

    @property
    def id(self) -> str:
        return message_id(self.webhook_id, self.delivery_id)


class Outcome(NamedTuple):
    """`error` is None once the receiver has said that it has the message; `gone`: it wants no more, ever."""

    error: str | None
    gone: bool = False


def unsettled() -> ColumnElement[bool]:
    return and_(WebhookDelivery.delivered_at.is_(None), WebhookDelivery.failed_at.is_(None))


def claim(session: Session) -> list[Message]:
    """Due messages, few of each webhook: one that does not answer must not hold up the others."""
    now = database_now(session)
    nth = func.row_number().over(partition_by=WebhookDelivery.webhook_id, order_by=WebhookDelivery.next_at)
    due = (
        select(WebhookDelivery.id, WebhookDelivery.next_at, nth.label("nth"))
        .where(unsettled(), WebhookDelivery.next_at <= now)
        .subquery()
    )
    first = select(due.c.id).where(due.c.nth <= MOST_OF_ONE_WEBHOOK).order_by(due.c.next_at).limit(MOST_AT_ONCE)
    rows = session.execute(
        select(WebhookDelivery, Webhook.url)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        # Asked again of the locked row: another sender may have claimed it since the inner question.
        .where(WebhookDelivery.id.in_(first), unsettled(), WebhookDelivery.next_at <= now)
        .with_for_update(of=WebhookDelivery, skip_locked=True)
    ).all()
    for row, _ in rows:
        row.attempts += 1
        row.next_at = now + timedelta(seconds=LEASE_SECONDS)
    return [Message(row.id, row.webhook_id, url, row.payload, row.created_at, row.attempts) for row, url in rows]


def settle(session: Session, message: Message, outcome: Outcome, *, give_up_hours: float) -> None:
    now = database_now(session)
    values: dict[str, object] = {"last_error": outcome.error}
    too_old = now - message.created_at > timedelta(hours=give_up_hours)
    if outcome.error is None:
        values["delivered_at"] = now
    elif outcome.gone or too_old:
        values["failed_at"] = now
    else:
        values["next_at"] = now + timedelta(seconds=pause_seconds(message.attempts))
    ours = update(WebhookDelivery).where(
        WebhookDelivery.id == message.delivery_id, WebhookDelivery.attempts == message.attempts, unsettled()
    )
    settled = session.execute(ours.values(**values))
    assert isinstance(settled, CursorResult)
    if settled.rowcount and outcome.gone:
        disable(session, message.webhook_id, f"its server answered: {outcome.error}")
    elif settled.rowcount and "failed_at" in values:
        disable_if_silent(session, message, give_up_hours)


def pause_seconds(attempts: int) -> float:
    """Doubling from 5 s to an hour, and up to half as long again so that retries do not come all at once."""
    pause = min(FIRST_PAUSE_SECONDS * 2.0 ** (attempts - 1), LONGEST_PAUSE_SECONDS)
    return pause * random.uniform(1.0, 1.5)


def disable_if_silent(session: Session, message: Message, hours: float) -> None:
    """A receiver that took nothing for as long as this message was tried is taken to be gone."""
    since = and_(WebhookDelivery.webhook_id == message.webhook_id, WebhookDelivery.delivered_at >= message.created_at)
    if session.scalar(select(WebhookDelivery.id).where(since).limit(1)) is None:
        disable(session, message.webhook_id, f"it took no message for {hours:g} hours")


def disable(session: Session, webhook_id: str, reason: str) -> None:
    """It hears of nothing any more, and what waits for it is given up."""
    now = database_now(session)
    hook = update(Webhook).where(Webhook.id == webhook_id, Webhook.disabled_at.is_(None))
    session.execute(hook.values(disabled_at=now, disabled_reason=reason))
    waiting = update(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id, unsettled())
    session.execute(waiting.values(failed_at=now, last_error=f"the webhook was disabled: {reason}"))
