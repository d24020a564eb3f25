"""The application, put together from its settings."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from pydantic import JsonValue
from starlette.types import ASGIApp

from shared.database import Database
from shared.errors import ConfigurationError
from shared.lexicon import load_lexicon
from shared.settings import Settings
from shared.storage import open_store

from . import (
    catalogue,
    dataset_images,
    datasets,
    evaluations,
    events,
    experiments,
    health,
    jobs,
    probes,
    trainings,
    usage,
    verification,
    webhooks,
)
from .body_limit import BodyLimit
from .dependencies import refuse_nul
from .event_hub import EventHub
from .examples import RECORDED
from .hosts import Hosts
from .new_jobs import VERSION
from .problems import install_problems, problem_schemas
from .rate_limit import RateLimit
from .security_headers import SecurityHeaders

logger = logging.getLogger(__name__)
ROUTED = (
    datasets,
    dataset_images,
    verification,
    trainings,
    evaluations,
    experiments,
    probes,
    jobs,
    events,
    usage,
    webhooks,
    catalogue,
    health,
)
DESCRIPTION = "Training sets drawn from class names, networks trained on them, and their tests on real photos."


class Api(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        # Around everything: Starlette answers bugs outside of the middlewares that are added.
        return SecurityHeaders(super().build_middleware_stack())

    def openapi(self) -> dict[str, JsonValue]:
        document = super().openapi()
        document["components"]["schemas"] |= problem_schemas()
        for operation in [operation for item in document["paths"].values() for operation in item.values()]:
            for status, answer in RECORDED.get(operation["operationId"], {}).items():
                operation["responses"][status]["content"]["application/json"]["example"] = answer
        return document


def create_app(settings: Settings) -> FastAPI:
    if settings.auth == "keys":
        settings.required_pepper()  # a server that can check no key must not start
    app = Api(
        title="synthclone",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(refuse_nul)],
        generate_unique_id_function=operation_id,
    )
    app.openapi_version = "3.2.0"  # the first with event streams
    app.state.settings = settings
    app.state.database = Database(settings.sqlalchemy_url)
    app.state.store = open_store(settings)
    app.state.event_hub = EventHub(app.state.database)
    app.state.stream_slots = events.StreamSlots(settings)
    app.state.rate_limit = RateLimit(settings)
    app.add_middleware(BodyLimit, most_bytes=settings.max_body_bytes, most_seconds=settings.body_seconds)
    app.add_middleware(Hosts, settings=settings)
    install_problems(app)
    for module in ROUTED:
        app.include_router(module.router)
    return app


def operation_id(route: APIRoute) -> str:
    """The client's method name."""
    return route.name


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        load_lexicon(app.state.settings.lexicon_path)
    except ConfigurationError as error:
        logger.warning("no dataset can be accepted yet", extra={"reason": error.detail})
    yield
    app.state.database.engine.dispose()
