"""`synthclone doctor`: one line per part, with the remedy where something is wrong."""

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import BaseModel, ConfigDict, JsonValue

from shared.errors import AppError, ConfigurationError, Unavailable
from shared.settings import Settings

from .console import options, write_json
from .devices import check_device, check_drawing
from .session import Client
from .setup import load_settings

if TYPE_CHECKING:
    from shared.database import Database
    from shared.tables import Worker

CLIENT_VARIABLES = ("SYNTHCLONE_API_URL", "SYNTHCLONE_API_TOKEN")


class Finding(BaseModel):
    model_config = ConfigDict(frozen=True)

    part: str
    verdict: Literal["ok", "wrong", "skipped"]
    detail: str
    exit_code: int = 0


class Diagnosis(BaseModel):
    """`rate` is what `--rate` measured, by the fields of services.sd_worker.rate.Rate."""

    findings: list[Finding]
    rate: dict[str, JsonValue] | None = None


def doctor(
    context: typer.Context,
    rate: Annotated[
        bool, typer.Option("--rate", help="Also draw some batches and tell images per second: up to some minutes.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="To draw with; default: SYNTHCLONE_DEFAULT_MODEL.")] = None,
) -> None:
    """Check every part this machine's settings name; exits with 0 only when nothing is wrong."""
    chosen = options(context)
    if model is not None and not rate:
        raise typer.BadParameter("--model says what --rate draws with; give --rate too")
    settings = load_settings()
    findings = [examine("api", partial(check_api, chosen.api))]
    findings += [examine(part, partial(check, settings)) for part, check in LOCAL_CHECKS.items()]
    measured: dict[str, JsonValue] = {}
    if rate:
        findings.append(examine("rate", partial(check_rate, settings, model, measured)))
    if chosen.as_json:
        write_json(Diagnosis(findings=findings, rate=measured or None))
    else:
        chosen.show(("part", "", "detail"), [(known.part, known.verdict, known.detail) for known in findings])
    raise typer.Exit(max(known.exit_code for known in findings))


def examine(part: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(part=part, verdict="ok", detail=check())
    except AppError as error:
        return Finding(part=part, verdict="wrong", detail=error.detail, exit_code=error.exit_code)
    except ModuleNotFoundError as error:
        return Finding(part=part, verdict="skipped", detail=f"{error.name} is not installed here")


def check_api(url: str | None) -> str:
    with Client(url) as client:
        client.connection.send_once(client.connection.http.build_request("GET", "/readyz"))
        return f"{client.connection.url} is ready"


def existing_database(settings: Settings) -> "Database":
    """Raises ConfigurationError rather than making an empty SQLite file."""
    from shared.database import Database

    if settings.database_url is None and not (settings.data_dir / "synthclone.db").is_file():
        raise ConfigurationError(f"no database in {settings.data_dir}; run `synthclone up` or `synthclone migrate`")
    return Database(settings.sqlalchemy_url)


def check_database(settings: Settings) -> str:
    from sqlalchemy.exc import DBAPIError

    from shared.schema import check

    database = existing_database(settings)
    shown = database.engine.url.render_as_string(hide_password=True)
    try:
        check(database)
    except DBAPIError as error:
        raise Unavailable(
            f"{shown} does not answer: {error.orig}; is it up, is SYNTHCLONE_DATABASE_URL right?"
        ) from error
    return f"{shown} is at the newest schema"


def check_workers(settings: Settings) -> str:
    from sqlalchemy.exc import DBAPIError

    from shared.workers import live_workers

    try:
        with existing_database(settings).read() as session:
            found = [describe_worker(worker) for worker in live_workers(session, "generate")]
    except DBAPIError as error:
        raise Unavailable(f"the database does not tell which workers live: {error.orig}") from error
    return "; ".join(found) or "none is alive that draws images"


def describe_worker(worker: "Worker") -> str:
    speed = "no rate yet" if worker.images_per_second is None else f"{worker.images_per_second:g} images/s"
    state = worker.problem or ("draws" if worker.busy else "is idle")
    return f"{worker.host} on {worker.device} {state}, {speed}"


def check_objects(settings: Settings) -> str:
    from shared.storage import open_store

    open_store(settings).check()
    place = f"bucket {settings.s3_bucket} at {settings.s3_endpoint}" if settings.s3_endpoint else settings.objects_dir
    return f"{place} can be written to"


def check_redis(settings: Settings) -> str:
    if settings.redis_url is None:
        return "not configured: workers poll"
    from redis import Redis, RedisError

    try:
        Redis.from_url(settings.redis_url, socket_connect_timeout=5, socket_timeout=5).ping()
    except (RedisError, ValueError) as error:
        raise Unavailable(f"Redis does not answer ({error}); is it up, is SYNTHCLONE_REDIS_URL right?") from error
    return "answers"


def check_lexicon(settings: Settings) -> str:
    from shared.lexicon import load_lexicon

    return f"{len(load_lexicon(settings.lexicon_path))} nouns at {settings.lexicon_path}"


def check_weights(settings: Settings) -> str:
    from shared.models import find_model, verify_weights

    entry = find_model(settings, settings.default_model)
    verify_weights(settings, entry)
    return f"{entry.name} at {entry.path(settings)} is what was registered"


def check_rate(settings: Settings, model: str | None, measured: dict[str, JsonValue]) -> str:
    from services.sd_worker.rate import measure_rate

    found = measure_rate(settings, model)
    measured.update(found.model_dump(mode="json"))
    return found.text


def check_variables(settings: Settings) -> str:
    known = {f"SYNTHCLONE_{name.upper()}" for name in type(settings).model_fields} | set(CLIENT_VARIABLES)
    unknown = sorted(
        name for name in os.environ if name.upper().startswith("SYNTHCLONE_") and name.upper() not in known
    )
    if unknown:
        raise ConfigurationError(f"nothing reads {', '.join(unknown)}; .env.example lists every variable")
    return "every SYNTHCLONE_* variable is known"


LOCAL_CHECKS: dict[str, Callable[[Settings], str]] = {
    "database": check_database,
    "objects": check_objects,
    "redis": check_redis,
    "lexicon": check_lexicon,
    "weights": check_weights,
    "device": check_device,
    "drawing": check_drawing,
    "workers": check_workers,
    "variables": check_variables,
}
