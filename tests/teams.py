"""Teams with real keys, for an API that asks for them."""

from collections.abc import Sequence

import httpx2
from pydantic import SecretStr

from services.prompt_api.keys import SCOPES, Scope, create_key
from services.prompt_api.teams import change_team, find_or_create_team
from shared.database import Database

PEPPER = SecretStr("a pepper of thirty-two characters")


def key_of(database: Database, team: str, *, scopes: Sequence[Scope] = SCOPES) -> str:
    with database.write() as session:
        return create_key(session, team, pepper=PEPPER, scopes=scopes)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def as_team(client: httpx2.Client, database: Database, team: str, *, scopes: Sequence[Scope] = SCOPES) -> httpx2.Client:
    """Another client of the same API, with a new key of this team."""
    return httpx2.Client(base_url=client.base_url, headers=bearer(key_of(database, team, scopes=scopes)), timeout=30)


def limit(database: Database, team: str, **limits: int | None) -> None:
    with database.write() as session:
        find_or_create_team(session, team)
        change_team(session, team, limits)
