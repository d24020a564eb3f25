"""Webhooks after the Standard Webhooks specification: which addresses are allowed, what is told, how it is signed."""

import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from datetime import datetime

from pydantic import SecretStr, ValidationError
from pydantic_core import Url
from sqlalchemy import select
from sqlalchemy.orm import Session

from .database import database_now
from .errors import ConfigurationError, Rejected
from .settings import Settings
from .tables import Job, JsonObject, Webhook, WebhookDelivery

MOST_URL_CHARACTERS = 2000


def signing_pepper(settings: Settings) -> SecretStr:
    """The secret that the webhooks' own secrets come from; raises ConfigurationError while webhooks are off."""
    if not settings.webhook_hosts:
        raise ConfigurationError("webhooks are off; name the hosts they may go to in SYNTHCLONE_WEBHOOK_HOSTS")
    return settings.required_pepper()


def secret_of(webhook_id: str, pepper: SecretStr) -> str:
    """Derived, so it need not be stored; only who knows the pepper can make it."""
    return "whsec_" + base64.b64encode(secret_bytes(webhook_id, pepper)).decode()


def secret_bytes(webhook_id: str, pepper: SecretStr) -> bytes:
    return hmac.digest(pepper.get_secret_value().encode(), f"webhook:{webhook_id}".encode(), hashlib.sha256)


def message_id(webhook_id: str, delivery_id: int) -> str:
    """The same at every attempt, so that a receiver can tell a repetition."""
    return f"msg_{webhook_id.removeprefix('wh-')}_{delivery_id}"


def signature(secret: bytes, id: str, timestamp: int, body: bytes) -> str:
    """The value of webhook-signature: scheme v1, HMAC-SHA256 of "id.timestamp.body"."""
    digest = hmac.digest(secret, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def checked_url(text: str, allowed: Sequence[str]) -> Url:
    """The address as a browser reads it (RFC 3986, IDNA); raises Rejected for one that webhooks may not go to."""
    url = parsed(text)
    host = url.host or ""
    if url.scheme != "https":
        raise refused(text, "it must begin with https://")
    if url.username or url.password:
        raise refused(text, "leave user name and password out; every message is signed")
    if url.fragment is not None:
        raise refused(text, "leave the fragment out")
    if is_address(host):
        raise refused(text, f"{host} is an address; use a host name")
    if not is_name(host):
        raise refused(text, "a host name has at most 253 characters, and 1 to 63 between two dots")
    if not any(matches(url, entry) for entry in allowed):
        place = host if url.port == 443 else f"{host}:{url.port}"
        raise refused(text, f"webhooks may not go to {place}; an operator allows hosts in SYNTHCLONE_WEBHOOK_HOSTS")
    return url


def is_name(host: str) -> bool:
    """RFC 1035, section 2.3.4; resolvers raise odd errors for anything else."""
    return len(host) <= 253 and all(1 <= len(label) <= 63 for label in host.removesuffix(".").split("."))


def parsed(text: str) -> Url:
    if len(text) > MOST_URL_CHARACTERS:
        raise refused(text, f"it has {len(text)} characters; at most {MOST_URL_CHARACTERS} are stored")
    try:
        return Url(text)
    except ValidationError as error:
        raise refused(text, error.errors()[0]["msg"]) from error


def refused(text: str, reason: str) -> Rejected:
    shown = text[:100].encode(errors="replace").decode()
    return Rejected(f"webhook URL {shown!r}: {reason}", pointer="/url")


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def matches(url: Url, entry: str) -> bool:
    """An entry is a host, a `*.domain` for all hosts below it, either with a port if it is not 443."""
    try:
        listed = Url(f"https://{entry}")
    except ValidationError as error:
        raise ConfigurationError(f"SYNTHCLONE_WEBHOOK_HOSTS: {entry!r} is no host name") from error
    host, name = url.host or "", listed.host or ""
    below = name.startswith("*.") and host.endswith(name[1:])
    return url.port == listed.port and (host == name or below)


def announce(session: Session, job_id: str, state: str, *, error: JsonObject | None = None) -> None:
    """Leave one message for each webhook of the job's team, in the transaction that ends the job."""
    job = session.execute(select(Job.team_id, Job.kind).where(Job.id == job_id)).one()
    # Locked so that a webhook deleted right now cannot break the foreign key and with it the end of the job.
    hears = select(Webhook.id).where(Webhook.team_id == job.team_id, Webhook.disabled_at.is_(None))
    webhook_ids = session.scalars(hears.with_for_update(read=True, key_share=True)).all()
    if not webhook_ids:
        return
    now, name = database_now(session), f"job.{state}"
    payload = told(job_id, job.kind, state, at=now, error=error)
    session.add_all(
        WebhookDelivery(webhook_id=each, job_id=job_id, type=name, payload=payload, created_at=now, next_at=now)
        for each in webhook_ids
    )


def told(job_id: str, kind: str, state: str, *, at: datetime, error: JsonObject | None) -> JsonObject:
    """What leaves the service: no prompt and no class name, which an error's detail may hold."""
    data: JsonObject = {"id": job_id, "kind": kind, "state": state, "links": {"self": f"/jobs/{job_id}"}}
    if error is not None:
        data["error"] = {"type": error["type"], "retryable": error["retryable"]}
    return {"type": f"job.{state}", "timestamp": at.isoformat(), "data": data}
