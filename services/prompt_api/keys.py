"""API keys `sk_<prefix>_<secret>`: the prefix finds the row, and only an HMAC of the secret is stored."""

import hashlib
import hmac
import secrets

from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.database import database_now
from shared.errors import Unauthorized
from shared.ids import new_id
from shared.tables import ApiKey, Team

PREFIX_BYTES = 4
SECRET_BYTES = 32
REMEDY = "send 'Authorization: Bearer sk_...'; an operator makes keys with `synthclone keys create`"


def hash_secret(secret: str, pepper: SecretStr) -> str:
    return hmac.new(pepper.get_secret_value().encode(), secret.encode(), hashlib.sha256).hexdigest()


def create_key(session: Session, team: str, *, pepper: SecretStr) -> str:
    """A new key of the team with this name, which is made when it is new; shown once, never stored."""
    prefix, secret = secrets.token_hex(PREFIX_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    row = ApiKey(
        id=new_id("ak"),
        team_id=find_or_create_team(session, team).id,
        prefix=prefix,
        secret_hash=hash_secret(secret, pepper),
        created_at=database_now(session),
    )
    session.add(row)
    return f"sk_{prefix}_{secret}"


def find_or_create_team(session: Session, name: str) -> Team:
    team = session.scalars(select(Team).where(Team.name == name)).one_or_none()
    if team is None:
        team = Team(id=new_id("tm"), name=name, created_at=database_now(session))
        session.add(team)
        session.flush()
    return team


def team_of_key(session: Session, key: str, *, pepper: SecretStr) -> str:
    """The team's id; raises Unauthorized for anything but a live key."""
    scheme, prefix, secret = [*key.split("_", 2), "", "", ""][:3]
    if scheme != "sk" or not prefix.isalnum() or not secret:
        raise Unauthorized(f"this request carries no API key; {REMEDY}")
    row = session.scalars(select(ApiKey).where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None))).one_or_none()
    # Hashed and compared even for an unknown prefix, so that the answer takes as long.
    expected = row.secret_hash if row else hash_secret("", pepper)
    matches = hmac.compare_digest(hash_secret(secret, pepper), expected)
    if row is None or not matches:
        raise Unauthorized(f"API key sk_{prefix[:8]}_... is unknown or revoked; {REMEDY}")
    return row.team_id
