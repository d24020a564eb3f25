"""Accept a request once: the answer to an Idempotency-Key is stored in the transaction that makes the job."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NamedTuple

from fastapi.responses import JSONResponse
from pydantic import JsonValue
from sqlalchemy.orm import Session

from shared.database import Database, database_now
from shared.errors import Rejected
from shared.seeds import digest
from shared.settings import Settings
from shared.tables import IdempotencyKey, Job, JsonObject

from .examples import JOBS
from .job_view import view_job
from .limits import Wanted, lock_team, refuse_beyond
from .schemas import JobView

RETRY_AFTER_SECONDS = "5"


class Asking(NamedTuple):
    """Who asks for what; the key is None where the request carries none."""

    team: str
    route: str
    key: str | None
    body: Mapping[str, JsonValue]
    wanted: Wanted = Wanted()
    retry_of: str | None = None

    @property
    def sha256(self) -> str:
        return digest(self.body)


def accept_once(
    database: Database, settings: Settings, asking: Asking, create: Callable[[Session], Job]
) -> JSONResponse:
    """Make a job within the team's limits, or repeat the answer that the same key got."""
    with database.write() as session:
        # First, so that a request sent twice at once finds the other's answer and not the limit it reached.
        team = lock_team(session, asking.team)
        answer = find_answer(session, asking, timedelta(hours=settings.idempotency_hours))
        if answer is not None:
            return answer
        refuse_beyond(session, team, asking.wanted, settings)
        return make_job(session, asking, create)


def find_answer(session: Session, asking: Asking, lifetime: timedelta) -> JSONResponse | None:
    if asking.key is None:
        return None
    stored = session.get(IdempotencyKey, (asking.team, asking.route, asking.key))
    if stored is None:
        return None
    if stored.created_at < database_now(session) - lifetime:
        # The dispatcher deletes these too; what a key means must not depend on when it last did.
        session.delete(stored)
        session.flush()
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
