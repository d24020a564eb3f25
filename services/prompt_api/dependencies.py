"""What handlers ask for, as annotated types."""

from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from pydantic import SecretStr

from shared.database import Database
from shared.errors import AppError, NotFound, Rejected
from shared.schema import DEFAULT_TEAM
from shared.settings import Settings
from shared.storage import ObjectStore

from .keys import team_of_key


class UnsupportedMediaType(AppError):
    status, code, title = 415, "unsupported-media-type", "The body must be JSON"


async def app_settings(request: Request) -> Settings:
    settings = request.app.state.settings
    assert isinstance(settings, Settings)
    return settings


async def app_database(request: Request) -> Database:
    database = request.app.state.database
    assert isinstance(database, Database)
    return database


async def app_store(request: Request) -> ObjectStore:
    store: ObjectStore = request.app.state.store
    return store


ServerSettings = Annotated[Settings, Depends(app_settings)]
# Handlers open their transactions themselves: a session held from a dependency until the handler gets a thread
# deadlocks when the pool is empty and every thread waits for it.
ServerDatabase = Annotated[Database, Depends(app_database)]
ServerStore = Annotated[ObjectStore, Depends(app_store)]

bearer = HTTPBearer(auto_error=False, description="An API key; not needed where the server runs with auth=off.")


async def requesting_team(
    settings: ServerSettings,
    database: ServerDatabase,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> str:
    if settings.auth == "off":
        return DEFAULT_TEAM
    assert settings.key_pepper is not None
    key = credentials.credentials if credentials else ""
    return await run_in_threadpool(find_team, database, key, settings.key_pepper)


def find_team(database: Database, key: str, pepper: SecretStr) -> str:
    with database.read() as session:
        return team_of_key(session, key, pepper=pepper)


TeamId = Annotated[str, Depends(requesting_team)]


async def require_json(request: Request) -> None:
    """Browsers send other types across origins without asking first, so this also guards a server on loopback."""
    sent = request.headers.get("content-type", "")
    kind = sent.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType(f"content type {sent[:100]!r} is not application/json; set the content-type header")


async def refuse_nul(request: Request) -> None:
    """PostgreSQL stores no NUL, so nothing can be called that."""
    if "\0" in request.url.path:
        raise NotFound(f"there is nothing at {request.url.path!r}")
    if "\0" in unquote(request.url.query):
        raise Rejected("the query string contains a NUL character")


async def idempotency_key(
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            pattern=r"^[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?$",
            description="The same key with the same body gets the same answer, however often it is sent.",
        ),
    ] = None,
) -> str | None:
    return key


RequestKey = Annotated[str | None, Depends(idempotency_key)]
JsonBody = Depends(require_json)
PageSize = Annotated[int, Query(ge=1, le=500, description="Rows in one answer.")]
Cursor = Annotated[str | None, Query(max_length=60, description="next_cursor of the page before.")]
