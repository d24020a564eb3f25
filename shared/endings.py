"""How the work on a training or an evaluation ended, and what that makes of its job."""

import logging
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

from .errors import AppError, LostLease
from .job_leases import JobLease, cancel_job, extend_job, fail_job, finish_job, release_job
from .lifecycle import failure
from .patience import AWAY
from .tables import JsonObject

logger = logging.getLogger(__name__)
SETTLE_SECONDS = 30.0


class Ending(BaseModel):
    """One of these is set; `crash` is the reason of an unexpected end, which another attempt may not meet.

    Beside a result `failed` says how many of the job's total it lacks.
    """

    model_config = ConfigDict(frozen=True)

    result: JsonObject | None = None
    failed: int = 0
    error: JsonObject | None = None
    unavailable: str | None = None
    crash: str | None = None
    is_stopped: bool = False


def ending_of(work: Callable[[], JsonObject | None]) -> Ending:
    """Do the work, which returns None when it was told to stop; expected failures become endings, bugs rise."""
    try:
        result = work()
    except AWAY as error:
        return Ending(unavailable=str(error))
    except LostLease as error:
        logger.warning("work given up", extra={"reason": error.detail})
        return Ending(is_stopped=True)
    except AppError as error:
        return Ending(error=failure(error.code, error.detail, retryable=False))
    return Ending(result=result, is_stopped=result is None)


def settle(session: Session, lease: JobLease, ending: Ending, *, max_attempts: int) -> None:
    """Move the job to its next state, unless it is no longer ours."""
    hold = extend_job(session, lease, lease_seconds=SETTLE_SECONDS)
    logger.info("work ended", extra={"job_id": lease.job_id, "hold": hold, "crash": ending.crash})
    if hold == "lost":
        return
    if ending.result is not None:
        finish_job(session, lease, ending.result, failed=ending.failed)
    elif hold == "cancelled":
        cancel_job(session, lease)
    elif ending.error is not None:
        fail_job(session, lease, ending.error)
    elif ending.crash is None:
        release_job(session, lease, count_attempt=False)
    elif lease.attempts < max_attempts:
        release_job(session, lease, count_attempt=True)
    else:
        detail = f"{lease.job_id} ended unexpectedly in {lease.attempts} attempts, all that are allowed: {ending.crash}"
        fail_job(session, lease, failure("crashed", detail, retryable=True))
