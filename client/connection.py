"""One HTTP connection to the API: retries what is worth retrying, and turns every failure into an error of ours."""

import logging
import time
import uuid
from collections.abc import Mapping
from typing import TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from shared.errors import ConfigurationError

from .errors import ApiRefused, ServiceUnreachable
from .models import Problem

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer", bound=BaseModel)
Query = Mapping[str, str | int | bool | None]

RETRIED = (429, 502, 503)
PAUSES_SECONDS = (0.25, 0.5, 1.0, 2.0)
LONGEST_PAUSE_SECONDS = 30.0
TIMEOUT = httpx2.Timeout(60, connect=5)


class Connection:
    def __init__(self, url: str, token: str | None) -> None:
        self.url = checked_url(url)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx2.Client(base_url=self.url, headers=headers, timeout=TIMEOUT)

    def get(self, path: str, answer: type[Answer], *, query: Query | None = None) -> Answer:
        return read(answer, self.send(self.http.build_request("GET", path, params=given(query))))

    def get_bytes(self, path: str) -> bytes:
        return self.send(self.http.build_request("GET", path)).content

    def post(
        self,
        path: str,
        body: BaseModel | None,
        answer: type[Answer],
        *,
        query: Query | None = None,
        key: str | None = None,
    ) -> Answer:
        """Safe to send again: `key`, or a fresh one, makes the API answer a repetition as it did the first time."""
        headers = {"Idempotency-Key": key or str(uuid.uuid4()), "Content-Type": "application/json"}
        content = body.model_dump_json(exclude_unset=True) if body is not None else None
        request = self.http.build_request("POST", path, params=given(query), headers=headers, content=content)
        return read(answer, self.send(request))

    def send(self, request: httpx2.Request) -> httpx2.Response:
        for pause in PAUSES_SECONDS:
            try:
                response = self.http.send(request)
            except httpx2.TransportError as error:
                logger.info("no answer, asking again: %s", error)
            else:
                if response.status_code not in RETRIED or is_limit(response):
                    return checked(response)
                logger.info("%s from %s, asking again", response.status_code, request.url)
                pause = retry_after(response) or pause
            time.sleep(pause)
        return self.send_once(request)

    def send_once(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return checked(self.http.send(request))
        except httpx2.TransportError as error:
            raise ServiceUnreachable(
                f"no answer from {self.url} ({type(error).__name__}: {error}); start it with `synthclone up`, "
                "or give its address with --api or SYNTHCLONE_API_URL"
            ) from error


def checked_url(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConfigurationError(
            f"the API address {url!r} is no URL ({error}); such as http://127.0.0.1:8000"
        ) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(f"the API address {url!r} is no URL; write it as http://127.0.0.1:8000")
    return url.rstrip("/")


def given(query: Query | None) -> dict[str, str | int | bool]:
    return {name: value for name, value in (query or {}).items() if value is not None}


def retry_after(response: httpx2.Response) -> float | None:
    """Seconds the server asks for; its other form, a date, is left to our own pauses."""
    value = response.headers.get("retry-after", "")
    return min(float(value), LONGEST_PAUSE_SECONDS) if value.isascii() and value.isdigit() else None


def checked(response: httpx2.Response) -> httpx2.Response:
    if response.is_success or response.status_code == httpx2.codes.NOT_MODIFIED:
        return response
    problem = problem_of(response)
    if response.is_client_error:
        raise ApiRefused(problem)
    raise ServiceUnreachable(f"{response.url} answered {response.status_code}: {problem.text}")


def is_limit(response: httpx2.Response) -> bool:
    """A limit of the team passes when a job ends, which can take days: the user decides whether to wait."""
    return problem_of(response).type.endswith(":limit-reached")


def problem_of(response: httpx2.Response) -> Problem:
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return Problem(title=response.reason_phrase, status=response.status_code, detail=response.text[:200])


def read(answer: type[Answer], response: httpx2.Response) -> Answer:
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise ServiceUnreachable(
            f"{response.url} answered what this client does not understand ({where}: {first['msg']}); "
            "is it a synthclone API of the same version?"
        ) from error
