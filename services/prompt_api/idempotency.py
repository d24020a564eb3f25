"""Accept a request once: the answer to an Idempotency-Key is stored in the transaction that makes the job."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fastapi.responses import JSONResponse
from pydantic import JsonValue
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared.database import Database, database_now
from shared.errors import Rejected
from shared.seeds import digest
from shared.tables import IdempotencyKey, Job, JsonObject

from .examples import JOBS
from .job_view import view_job
from .schemas import JobView

RETRY_AFTER_SECONDS = "5"


class Asking(NamedTuple):
    """Who asks for what; the key is None where the request carries none."""

    team: str
    route: str
    key: str | None
    body: Mapping[str, JsonValue]
    retry_of: str | None = None

    @property
    def sha256(self) -> str:
        return digest(self.body)


def accept_once(database: Database, asking: Asking, create: Callable[[Session], Job]) -> JSONResponse:
    """Make a job, or repeat the answer that the same key got."""
    try:
        with database.write() as session:
            return find_answer(session, asking) or make_job(session, asking, create)
    except IntegrityError:
        # The same key was answered between our look and our insert; that answer is committed now.
        with database.read() as session:
            answer = find_answer(session, asking)
        if answer is None:
            raise
        return answer


def find_answer(session: Session, asking: Asking) -> JSONResponse | None:
    if asking.key is None:
        return None
    stored = session.get(IdempotencyKey, (asking.team, asking.route, asking.key))
    if stored is None:
        return None
    if stored.request_sha256 != asking.sha256:
        raise Rejected(f"Idempotency-Key {asking.key!r} was used for another body; send a new key for a new request")
    return answer_accepted(stored.job_id, stored.body, replayed=True)


def make_job(session: Session, asking: Asking, create: Callable[[Session], Job]) -> JSONResponse:
    job = create(session)
    view = view_job(session, job)
    if asking.retry_of is not None:
        view = view.model_copy(update={"links": {**view.links, "retry_of": f"/jobs/{asking.retry_of}"}})
    body = view.model_dump(mode="json")
    if asking.key is not None:
        row = IdempotencyKey(
            team_id=asking.team,
            route=asking.route,
            key=asking.key,
            request_sha256=asking.sha256,
            job_id=job.id,
            body=body,
            created_at=database_now(session),
        )
        session.add(row)
        session.flush()
    return answer_accepted(job.id, body, replayed=False)


def answer_accepted(job_id: str, body: JsonObject, *, replayed: bool) -> JSONResponse:
    headers = {"Location": f"/jobs/{job_id}", "Retry-After": RETRY_AFTER_SECONDS}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(body, 202, headers)


ACCEPTED: dict[int | str, dict[str, object]] = {
    202: {
        "model": JobView,
        "content": {"application/json": {"examples": JOBS}},
        "description": "The work is recorded; poll the address in Location.",
        "headers": {
            "Location": {"description": "Address of the job.", "schema": {"type": "string"}},
            "Retry-After": {"description": "Seconds until polling makes sense.", "schema": {"type": "integer"}},
            "Idempotency-Replayed": {
                "description": "Present when the key was answered before.",
                "schema": {"type": "string", "enum": ["true"]},
            },
        },
    }
}
