"""API keys `sk_<prefix>_<secret>`: the prefix finds the row, and only an HMAC of the secret is stored."""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from pydantic import SecretStr
from sqlalchemy import CursorResult, or_, select, update
from sqlalchemy.orm import Session

from shared.database import DATABASE_AWAY, Database, database_now
from shared.errors import AppError, Conflict, NotFound, Unauthorized
from shared.ids import new_id
from shared.tables import ApiKey, Team

from .teams import find_or_create_team

logger = logging.getLogger(__name__)
Scope = Literal["read", "write"]
SCOPES: tuple[Scope, ...] = ("read", "write")
PREFIX_BYTES = 4
SECRET_BYTES = 32
WRITTEN = re.compile(r"sk_(?P<prefix>[0-9a-f]{8})_(?P<secret>[A-Za-z0-9_-]{43})", re.ASCII)
TOUCH_SECONDS = 60
REMEDY = "send 'Authorization: Bearer sk_...'; an operator makes keys with `synthclone keys create`"


class MissingScope(AppError):
    status, code, title, exit_code = 403, "missing-scope", "This key may not do that", 3


class Caller(NamedTuple):
    """Whom a key belongs to, and what it may do."""

    team: str
    prefix: str
    scopes: Sequence[str]
    is_touch_due: bool

    def require(self, scope: Scope) -> None:
        if scope not in self.scopes:
            raise MissingScope(
                f"API key sk_{self.prefix}_... has not the scope {scope!r}, only {', '.join(self.scopes)}; an operator "
                f"makes one that has with `synthclone keys create --scope {scope}`"
            )


class KeyRow(NamedTuple):
    """What an operator may see of a key: everything but the secret."""

    prefix: str
    team: str
    name: str
    scopes: Sequence[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


def hash_secret(secret: str, pepper: SecretStr) -> str:
    return hmac.new(pepper.get_secret_value().encode(), secret.encode(), hashlib.sha256).hexdigest()


def create_key(
    session: Session,
    team: str,
    *,
    pepper: SecretStr,
    name: str = "",
    scopes: Sequence[Scope] = SCOPES,
    lifetime: timedelta | None = None,
) -> str:
    """A new key of the team with this name, which is made when it is new; shown once, never stored."""
    prefix, secret = secrets.token_hex(PREFIX_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    team_id = find_or_create_team(session, team).id
    now = database_now(session)
    row = ApiKey(
        id=new_id("ak"),
        team_id=team_id,
        prefix=prefix,
        secret_hash=hash_secret(secret, pepper),
        name=name,
        scopes=list(scopes),
        created_at=now,
        expires_at=now + lifetime if lifetime is not None else None,
    )
    session.add(row)
    session.flush()
    return f"sk_{prefix}_{secret}"


def caller_of_key(session: Session, key: str, *, pepper: SecretStr) -> Caller:
    """Raises Unauthorized for anything but a live key; the answer never says what about it was wrong."""
    written = WRITTEN.fullmatch(key)
    if written is None:
        raise Unauthorized(f"this request carries no API key; {REMEDY}")
    prefix = written["prefix"]
    row = session.scalars(select(ApiKey).where(ApiKey.prefix == prefix)).one_or_none()
    # Hashed and compared even for an unknown prefix, so that the answer takes as long.
    expected = row.secret_hash if row else hash_secret("", pepper)
    matches = hmac.compare_digest(hash_secret(written["secret"], pepper), expected)
    now = database_now(session)
    if row is None or not matches or not is_live(row, now):
        raise Unauthorized(f"API key sk_{prefix}_... is unknown, expired or revoked; {REMEDY}")
    used = row.last_used_at
    is_touch_due = used is None or now - used >= timedelta(seconds=TOUCH_SECONDS)
    return Caller(row.team_id, prefix, tuple(row.scopes), is_touch_due)


def is_live(row: ApiKey, now: datetime) -> bool:
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def find_caller(database: Database, key: str, pepper: SecretStr) -> Caller:
    with database.read() as session:
        caller = caller_of_key(session, key, pepper=pepper)
    if caller.is_touch_due:
        touch(database, caller.prefix)
    return caller


def touch(database: Database, prefix: str) -> None:
    """Note that the key is in use, at most once a minute; a database that only reads fails no request by this."""
    try:
        with database.write() as session:
            now = database_now(session)
            unused = ApiKey.last_used_at <= now - timedelta(seconds=TOUCH_SECONDS)
            of_key = (ApiKey.prefix == prefix, or_(ApiKey.last_used_at.is_(None), unused))
            session.execute(update(ApiKey).where(*of_key).values(last_used_at=now))
    except DATABASE_AWAY as error:
        logger.warning("the use of a key was not noted", extra={"prefix": prefix, "reason": str(error)})


def list_keys(session: Session) -> list[KeyRow]:
    """Of all teams, oldest first."""
    query = (
        select(
            ApiKey.prefix,
            Team.name,
            ApiKey.name,
            ApiKey.scopes,
            ApiKey.created_at,
            ApiKey.expires_at,
            ApiKey.revoked_at,
            ApiKey.last_used_at,
        )
        .join(Team, Team.id == ApiKey.team_id)
        .order_by(ApiKey.id)
    )
    return [KeyRow(*row) for row in session.execute(query)]


def revoke_key(session: Session, prefix: str) -> None:
    """From now on; raises NotFound, and Conflict for a key that is revoked already."""
    of_key = (ApiKey.prefix == bare(prefix), ApiKey.revoked_at.is_(None))
    revoked = session.execute(update(ApiKey).where(*of_key).values(revoked_at=database_now(session)))
    assert isinstance(revoked, CursorResult)
    if revoked.rowcount == 0:
        raise Conflict(f"API key {find_key(session, prefix).prefix} is revoked already; nothing was changed")


def rotate_key(session: Session, prefix: str, *, pepper: SecretStr, grace: timedelta) -> str:
    """A new key of the same team, name, scopes and length of life; the old one works on for `grace`."""
    old = find_key(session, prefix)
    now = database_now(session)
    if not is_live(old, now):
        raise Conflict(f"API key {old.prefix} is expired or revoked; make another with `synthclone keys create`")
    lifetime = old.expires_at - old.created_at if old.expires_at is not None else None
    team = session.get_one(Team, old.team_id).name
    scopes = [scope for scope in SCOPES if scope in old.scopes]
    new = create_key(session, team, pepper=pepper, name=old.name, scopes=scopes, lifetime=lifetime)
    old.expires_at = min(now + grace, old.expires_at or now + grace)
    return new


def find_key(session: Session, prefix: str) -> ApiKey:
    row = session.scalars(select(ApiKey).where(ApiKey.prefix == bare(prefix)).with_for_update()).one_or_none()
    if row is None:
        # What was typed may be a whole key: no more of it than a prefix is repeated.
        raise NotFound(f"there is no API key {bare(prefix)[:8]!r}; `synthclone keys list` shows every prefix")
    return row


def bare(prefix: str) -> str:
    """The prefix of what an operator may paste: `0a1b2c3d`, `sk_0a1b2c3d`, or the whole key."""
    return prefix.removeprefix("sk_").partition("_")[0]
