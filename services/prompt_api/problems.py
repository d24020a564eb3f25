"""Every error answer is one RFC 9457 problem, whatever raised it."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shared.errors import AppError, Unauthorized, Unavailable

from .examples import REFUSED
from .pointers import Fault, faults
from .rate_limit import TooManyRequests

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = "5"
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "30"},
    503: {"Retry-After": RETRY_SECONDS},
}
MOST_FAULTS = 20
MOST_READ_ERRORS = 1000
READ_ONLY_TRANSACTION = "25006"
VALIDATION = ("validation", "The request is not valid")
UNPARSABLE = ("unparsable-body", "The body is not JSON")

DESCRIPTIONS = {
    400: "The body is not JSON.",
    401: "No API key, or one that is unknown, expired or revoked.",
    403: "The key lacks the scope that this needs, or a limit of the team does not allow it.",
    404: "There is no such thing, or it belongs to another team.",
    408: "The body arrived too slowly.",
    409: "The thing exists but its state forbids this.",
    413: "The body is larger than the server takes.",
    415: "The body is not sent as application/json.",
    421: "The server does not answer to the name in the Host header.",
    422: "The request asks for something that cannot be done; nothing was changed.",
    429: "A limit of the team, or of requests, is reached for now.",
    503: "A part of the service does not answer right now.",
}


class ProblemItem(BaseModel):
    model_config = ConfigDict(frozen=True)

    pointer: str | None = Field(None, description="JSON pointer into the body (RFC 6901).", examples=["/scale"])
    parameter: str | None = Field(None, description="Name of the query, path or header parameter.")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(examples=["urn:synthclone:problem:rejected"])
    title: str
    status: int
    detail: str = Field(description="Names the value at fault and what would be right.")
    instance: str
    errors: list[ProblemItem] = []


def documented(*statuses: int) -> dict[int | str, dict[str, object]]:
    """The OpenAPI entries of these error statuses, and of those that any route for users can answer."""
    with_body = {408} if 413 in statuses else set()
    return {status: document(status) for status in sorted({401, 403, 421, 422, 429, 503, *with_body, *statuses})}


def document(status: int) -> dict[str, object]:
    media: dict[str, object] = {"schema": {"$ref": "#/components/schemas/Problem"}}
    if status == 422:
        media["example"] = REFUSED
    return {"description": DESCRIPTIONS[status], "content": {MEDIA_TYPE: media}}


def problem_schemas() -> dict[str, JsonValue]:
    """FastAPI lists only models that are answered as a route's own media type."""
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**problem.pop("$defs"), "Problem": problem}


def install_problems(app: FastAPI) -> None:
    app.add_exception_handler(AppError, answer_app_error)
    app.add_exception_handler(RequestValidationError, answer_validation)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(DBAPIError, answer_database_error)
    app.add_exception_handler(PoolTimeout, answer_database_away)
    app.add_exception_handler(Exception, answer_bug)


async def answer_app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    items = [ProblemItem(pointer=error.pointer, detail=error.detail)] if error.pointer is not None else []
    headers = HEADERS.get(error.status)
    if isinstance(error, TooManyRequests):
        headers = {"Retry-After": str(error.retry_seconds)}
    if isinstance(error, Unauthorized):
        request.app.state.rate_limit.count_wrong_key(request)
    kind = (error.code, error.title)
    return respond(request, error.status, kind, error.detail, items=items, headers=headers)


async def answer_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # A body of a few megabytes can have some hundred thousand errors, and this runs in the event loop.
    told = error.errors()
    every = faults(told[:MOST_READ_ERRORS], error.body)
    found = every[:MOST_FAULTS]
    hidden = f"{len(every) - len(found):,}" if len(told) <= MOST_READ_ERRORS else "many"
    more = [f"and {hidden} more"] if len(every) > len(found) else []
    detail = "; ".join([describe(fault) for fault in found] + more)
    if any(fault.kind == "json_invalid" for fault in found):
        return respond(request, 400, UNPARSABLE, detail)
    items = [ProblemItem(pointer=fault.pointer, parameter=fault.parameter, detail=fault.detail) for fault in found]
    return respond(request, 422, VALIDATION, detail, items=items)


def describe(fault: Fault) -> str:
    place = fault.parameter or fault.pointer
    return f"{place}: {fault.detail}" if place else fault.detail


async def answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    details = {
        400: "the body cannot be read as JSON; send UTF-8, nested less deeply and with shorter numbers",
        404: f"there is nothing at {request.url.path}; /openapi.json lists every address",
        405: f"{request.method} is not possible on {request.url.path}",
    }
    kind = (status.phrase.lower().replace(" ", "-"), status.phrase)
    detail = details.get(error.status_code, error.detail)
    return respond(request, error.status_code, kind, detail, headers=error.headers)


async def answer_database_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DBAPIError)
    if not is_away(error):
        raise error
    return await answer_database_away(request, error)


def is_away(error: DBAPIError) -> bool:
    """Whether waiting helps: it is not reachable, went away in mid-question, or cannot write after a fail-over."""
    is_read_only = getattr(error.orig, "sqlstate", None) == READ_ONLY_TRANSACTION
    return error.connection_invalidated or is_read_only or isinstance(error, OperationalError | InterfaceError)


async def answer_database_away(request: Request, error: Exception) -> Response:
    logger.warning("database away", extra={"path": request.url.path, "reason": str(error)})
    return await answer_app_error(request, Unavailable("the database does not answer; nothing was changed, try again"))


async def answer_bug(request: Request, error: Exception) -> Response:
    detail = f"the service has a bug ({type(error).__name__}); its log has the trace"
    return respond(request, 500, (AppError.code, AppError.title), detail)


def respond(
    request: Request,
    status: int,
    kind: tuple[str, str],
    detail: str,
    *,
    items: Sequence[ProblemItem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """`kind` is the code at the end of the type, and the title."""
    code, title = kind
    problem = Problem(
        type=f"urn:synthclone:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        instance=request.url.path,
        errors=list(items),
    )
    return Response(encode(problem.model_dump(exclude_none=True)), status, headers, MEDIA_TYPE)


def encode(problem: dict[str, JsonValue]) -> bytes:
    # ASCII, because a detail may quote half a surrogate pair, which UTF-8 cannot carry.
    return json.dumps(problem).encode()
