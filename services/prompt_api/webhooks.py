"""`/webhooks`: addresses of your own that are told when one of your jobs ends."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Body
from fastapi.openapi.models import Example
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.database import database_now
from shared.errors import ConfigurationError, Conflict, NotFound
from shared.ids import new_id
from shared.tables import Team, Webhook, WebhookDelivery
from shared.webhooks import checked_url, message_id, secret_of, signing_pepper

from .dependencies import JsonBody, ServerDatabase, ServerSettings, TeamId
from .problems import documented
from .schemas import View

router = APIRouter(tags=["webhooks"])
MOST_WEBHOOKS = 10
SHOWN_DELIVERIES = 20

DeliveryState = Literal["waiting", "delivered", "failed"]
WebhookId = Annotated[str, Field(examples=["wh-01k9zt4m5n6p7q8r9s0t1v2w3x"])]
BODIES: dict[str, Example] = {
    "a host": {"summary": "An allowed host", "value": {"url": "https://hooks.example.org/synthclone"}}
}
ID, URL, CREATED = "wh-01k9zt4m5n6p7q8r9s0t1v2w3x", "https://hooks.example.org/synthclone", "2026-11-22T09:00:00Z"
SHOWN: dict[str, JsonValue] = {
    "id": ID,
    "url": URL,
    "created_at": CREATED,
    "disabled_at": None,
    "disabled_reason": None,
}
DELIVERY: dict[str, JsonValue] = {
    "message_id": "msg_01k9zt4m5n6p7q8r9s0t1v2w3x_7",
    "type": "job.succeeded",
    "job_id": "ds-01k9zt2v6m8q4r5s7w9x0y1a2b",
    "state": "waiting",
    "attempts": 1,
    "last_error": "status 503",
    "next_at": "2026-11-22T09:05:06Z",
    "delivered_at": None,
}


def answer(status: int, example: JsonValue) -> dict[int | str, dict[str, object]]:
    return {status: {"content": {"application/json": {"example": example}}}}


class WebhookRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(min_length=1, max_length=4000, description="https, a host name that the operator allows.")


class WebhookView(View):
    id: WebhookId
    url: str
    created_at: datetime
    disabled_at: datetime | None = Field(None, description="It hears of nothing from then on; make a new one.")
    disabled_reason: str | None = None


class NewWebhookView(WebhookView):
    secret: str = Field(description="Shown only now. Checks the header webhook-signature (standardwebhooks.com).")


class WebhookList(View):
    items: list[WebhookView]


class DeliveryView(View):
    """One message about one job; it comes at least once, and again with the same id until you answer 2xx."""

    message_id: str
    type: str
    job_id: str
    state: DeliveryState
    attempts: int
    last_error: str | None = None
    next_at: datetime | None = Field(None, description="When it is tried again.")
    delivered_at: datetime | None = None


class WebhookDetail(WebhookView):
    deliveries: list[DeliveryView] = Field(description=f"The last {SHOWN_DELIVERIES}, newest first.")


@router.post(
    "/webhooks",
    status_code=201,
    dependencies=[JsonBody],
    responses=answer(201, SHOWN | {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
    | documented(400, 409, 413, 415),
)
def create_webhook(
    request: Annotated[WebhookRequest, Body(openapi_examples=BODIES)],
    settings: ServerSettings,
    database: ServerDatabase,
    team: TeamId,
) -> NewWebhookView:
    """Have an address of yours told when a job of your team ends."""
    try:
        pepper = signing_pepper(settings)
    except ConfigurationError as error:
        raise Conflict(error.detail) from error
    url = str(checked_url(request.url, settings.webhook_hosts))
    with database.write() as session:
        webhook = add_webhook(session, url, team)
        return NewWebhookView(**view(webhook).model_dump(), secret=secret_of(webhook.id, pepper))


def add_webhook(session: Session, url: str, team: str) -> Webhook:
    # Locked, so that two requests at once cannot both be the last that is allowed.
    session.get_one(Team, team, with_for_update=True)
    others = webhooks_of(session, team)
    if len(others) >= MOST_WEBHOOKS:
        raise Conflict(f"your team has {len(others)} webhooks, the most there may be; delete one first")
    same = [other.id for other in others if other.url == url and other.disabled_at is None]
    if same:
        raise Conflict(f"webhook {same[0]} goes to {url} already; delete it to get a new secret")
    webhook = Webhook(id=new_id("wh"), team_id=team, url=url, created_at=database_now(session))
    session.add(webhook)
    session.flush()
    return webhook


def webhooks_of(session: Session, team: str) -> Sequence[Webhook]:
    return session.scalars(select(Webhook).where(Webhook.team_id == team).order_by(Webhook.id)).all()


def find_webhook(session: Session, webhook_id: str, team: str) -> Webhook:
    webhook = session.get(Webhook, webhook_id)
    if webhook is None or webhook.team_id != team:
        raise NotFound(f"there is no webhook {webhook_id!r}; see GET /webhooks")
    return webhook


def view(webhook: Webhook) -> WebhookView:
    return WebhookView(
        id=webhook.id,
        url=webhook.url,
        created_at=webhook.created_at,
        disabled_at=webhook.disabled_at,
        disabled_reason=webhook.disabled_reason,
    )


@router.get("/webhooks", responses=answer(200, {"items": [SHOWN]}) | documented())
def list_webhooks(database: ServerDatabase, team: TeamId) -> WebhookList:
    """Your team's webhooks, oldest first; ten are the most."""
    with database.read() as session:
        return WebhookList(items=[view(webhook) for webhook in webhooks_of(session, team)])


@router.get("/webhooks/{webhook_id}", responses=answer(200, SHOWN | {"deliveries": [DELIVERY]}) | documented(404))
def get_webhook(webhook_id: str, database: ServerDatabase, team: TeamId) -> WebhookDetail:
    """One webhook and what became of its last messages."""
    with database.read() as session:
        webhook = find_webhook(session, webhook_id, team)
        return WebhookDetail(**view(webhook).model_dump(), deliveries=last_deliveries(session, webhook))


def last_deliveries(session: Session, webhook: Webhook) -> list[DeliveryView]:
    rows = session.scalars(
        select(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id)
        .order_by(WebhookDelivery.id.desc())
        .limit(SHOWN_DELIVERIES)
    )
    return [view_delivery(webhook, row) for row in rows]


def view_delivery(webhook: Webhook, row: WebhookDelivery) -> DeliveryView:
    state: DeliveryState = "delivered" if row.delivered_at else "failed" if row.failed_at else "waiting"
    return DeliveryView(
        message_id=message_id(webhook.id, row.id),
        type=row.type,
        job_id=row.job_id,
        state=state,
        attempts=row.attempts,
        last_error=row.last_error,
        next_at=row.next_at if state == "waiting" else None,
        delivered_at=row.delivered_at,
    )


@router.delete("/webhooks/{webhook_id}", status_code=204, responses=documented(404))
def delete_webhook(webhook_id: str, database: ServerDatabase, team: TeamId) -> None:
    """Forget an address, and the messages that wait for it."""
    with database.write() as session:
        session.delete(find_webhook(session, webhook_id, team))
