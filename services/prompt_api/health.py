"""`/livez`, `/readyz` and `/metrics`, for whoever operates the service; none needs an API key."""

import time
from collections.abc import Callable, Mapping

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.responses import Response

from shared import schema
from shared.database import Database
from shared.errors import AppError
from shared.lexicon import load_lexicon
from shared.settings import Settings
from shared.storage import ObjectStore
from shared.tables import Job, Shard
from shared.workers import live_workers

from .dependencies import ServerDatabase, ServerSettings, ServerStore
from .problems import document
from .schemas import CheckView, LiveView, ReadyView

router = APIRouter(tags=["operations"])
CHECK_SECONDS = 1.0


@router.get("/livez")
async def get_liveness() -> LiveView:
    """The process answers; it asks nothing else."""
    return LiveView(status="alive")


@router.get("/readyz", response_model=ReadyView, responses={503: {"model": ReadyView, "description": "Not ready."}})
async def get_readiness(settings: ServerSettings, database: ServerDatabase, store: ServerStore) -> JSONResponse:
    """Whether the parts that requests need answer within a second each."""
    checks = {name: await run_check(check) for name, check in readiness(settings, database, store).items()}
    ready = all(check.ok for check in checks.values())
    view = ReadyView(status="ready" if ready else "not ready", checks=checks)
    return JSONResponse(view.model_dump(mode="json"), 200 if ready else 503)


def readiness(settings: Settings, database: Database, store: ObjectStore) -> Mapping[str, Callable[[], object]]:
    return {
        "database": lambda: schema.check(database),
        "objects": store.check,
        "lexicon": lambda: load_lexicon(settings.lexicon_path),
    }


async def run_check(check: Callable[[], object]) -> CheckView:
    started = time.monotonic()
    problem = None
    try:
        with anyio.fail_after(CHECK_SECONDS):
            await run_sync(check, abandon_on_cancel=True)
    except TimeoutError:
        problem = f"no answer within {CHECK_SECONDS:g} s"
    except (AppError, SQLAlchemyError) as error:
        problem = str(error)
    return CheckView(ok=problem is None, milliseconds=round((time.monotonic() - started) * 1000, 1), problem=problem)


@router.get("/metrics", response_class=PlainTextResponse, responses={503: document(503)})
def get_metrics(database: ServerDatabase) -> Response:
    """Prometheus gauges of what the database knows."""
    with database.read() as session:
        return Response(generate_latest(gauges(session)), media_type=CONTENT_TYPE_LATEST)


def gauges(session: Session) -> CollectorRegistry:
    registry = CollectorRegistry()
    jobs = Gauge("synthclone_jobs", "Jobs by kind and state.", ["kind", "state"], registry=registry)
    for kind, state, count in session.execute(select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)):
        jobs.labels(kind, state).set(count)
    shards = Gauge("synthclone_shards", "Shards that wait or are being drawn.", ["state"], registry=registry)
    for state in ("pending", "leased"):
        query = select(func.count()).select_from(Shard).where(Shard.state == state)
        shards.labels(state).set(session.scalar(query) or 0)
    workers = Gauge("synthclone_workers", "Live workers.", ["kind", "busy"], registry=registry)
    for worker in live_workers(session):
        workers.labels(worker.kind, str(worker.busy).lower()).inc()
    return registry
