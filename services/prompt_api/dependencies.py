"""What handlers ask for, as annotated types."""

from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from pydantic import JsonValue

from shared.database import Database
from shared.errors import AppError, NotFound, Rejected
from shared.schema import DEFAULT_TEAM
from shared.settings import Settings
from shared.storage import ObjectStore

from .keys import find_caller
from .rate_limit import RateLimit


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

READING = ("GET", "HEAD")
MOST_KEYS = 100
bearer = HTTPBearer(auto_error=False, description="An API key; not needed where the server runs with auth=off.")


async def requesting_team(
    request: Request,
    settings: ServerSettings,
    database: ServerDatabase,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> str:
    """The team of the request's key, which needs the scope `read` to look and `write` to change anything."""
    if settings.auth == "off":
        return DEFAULT_TEAM
    is_clear = len(request.headers.getlist("authorization")) == 1
    key = credentials.credentials if credentials and is_clear else ""
    caller = await run_in_threadpool(find_caller, database, key, settings.required_pepper())
    caller.require("read" if request.method in READING else "write")
    return caller.team


async def rate_limit(request: Request) -> RateLimit:
    limit = request.app.state.rate_limit
    assert isinstance(limit, RateLimit)
    return limit


ServerRateLimit = Annotated[RateLimit, Depends(rate_limit)]


async def refuse_guessing(request: Request, limit: ServerRateLimit) -> None:
    limit.refuse_guessing(request)


async def limited_team(
    request: Request,
    limit: ServerRateLimit,
    guessing: Annotated[None, Depends(refuse_guessing)],
    team: Annotated[str, Depends(requesting_team)],
) -> str:
    # The order of the arguments is that of the checks: looking up a wrong key is work for the database too.
    limit.count_request(request, team)
    return team


TeamId = Annotated[str, Depends(limited_team)]


async def require_json(request: Request) -> None:
    """Browsers send other types across origins without asking first, so this also guards a server on loopback."""
    sent = request.headers.get("content-type", "")
    kind = sent.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType(f"content type {sent[:100]!r} is not application/json; set the content-type header")
    # Each unknown key is a fault of its own: the hundred thousand that fit into a body would hold up everyone.
    if await request.body() and (keys := most_keys(await request.json())) > MOST_KEYS:
        raise Rejected(f"an object of the body has {keys:,} keys; none that this API takes has more than {MOST_KEYS}")


def most_keys(body: JsonValue) -> int:
    """Of any object in it."""
    most, left = 0, [body]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            most = max(most, len(value))
            left += value.values()
        elif isinstance(value, list):
            left += value
    return most


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
