"""`synthclone keys` and `synthclone teams`: an operator's commands, which talk to the database and not to the API."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import Rejected

from .console import options, write_line
from .setup import load_settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.prompt_api.keys import KeyRow
    from shared.tables import Team

keys = typer.Typer(help="API keys.", no_args_is_help=True)
teams = typer.Typer(help="Teams, their shares and limits.", no_args_is_help=True)
LARGEST = 2**63 - 1

Prefix = Annotated[str, typer.Argument(help="The eight characters between sk_ and the next _.")]
Limit = Annotated[str | None, typer.Option(help="A number, or none for no limit.")]


@contextmanager
def transaction() -> "Iterator[Session]":
    """On the database of the SYNTHCLONE_* variables, whose schema must be this version's."""
    from shared.schema import open_database

    database = open_database(load_settings().sqlalchemy_url)
    try:
        with database.write() as session:
            yield session
    finally:
        database.engine.dispose()


@keys.command("create")
def create_api_key(
    context: typer.Context,
    team: Annotated[str, typer.Option(help="The team it belongs to; made when it is new.")] = "default",
    name: Annotated[str, typer.Option(help="What it is for, such as a person or a machine.")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="read or write; default: both, given once for each.")] = None,
    expires_in_days: Annotated[float | None, typer.Option(help="Default: it never expires.")] = None,
) -> None:
    """Make an API key; it is shown once and never stored."""
    from services.prompt_api.keys import SCOPES, create_key

    pepper = load_settings().required_pepper()
    lifetime = positive_time("--expires-in-days", "days", expires_in_days)
    if unknown := set(scope or ()) - set(SCOPES):
        raise Rejected(f"--scope {min(unknown)[:50]!r} is unknown; known: {', '.join(SCOPES)}")
    scopes = [known for known in SCOPES if known in (scope or SCOPES)]
    named = {"team": checked_name("--team", team), "name": checked_name("--name", name, may_be_empty=True)}
    with transaction() as session:
        key = create_key(session, named["team"], pepper=pepper, name=named["name"], scopes=scopes, lifetime=lifetime)
    show_key(context, key, {**named, "scopes": scopes})


@keys.command("list")
def list_api_keys(context: typer.Context) -> None:
    """Show every key's prefix, team, scopes and dates; nothing here opens the API."""
    from services.prompt_api.keys import list_keys

    with transaction() as session:
        rows = list_keys(session)
    if options(context).as_json:
        write_line(json.dumps([row._asdict() for row in rows], default=datetime.isoformat))
        return
    columns = ("prefix", "team", "name", "scopes", "created (UTC)", "expires", "revoked", "last used")
    options(context).show(columns, [cells(row) for row in rows])


def cells(row: "KeyRow") -> tuple[str, ...]:
    dates = (row.created_at, row.expires_at, row.revoked_at, row.last_used_at)
    written = [f"{at:%Y-%m-%d %H:%M}" if at else "-" for at in dates]
    return (row.prefix, row.team, row.name or "-", " ".join(row.scopes), *written)


@keys.command("revoke")
def revoke_api_key(context: typer.Context, prefix: Prefix) -> None:
    """Close a key at once and for good."""
    from services.prompt_api.keys import revoke_key

    with transaction() as session:
        revoke_key(session, prefix)
    options(context).say("revoked; requests with it are answered 401 from now on")


@keys.command("rotate")
def rotate_api_key(
    context: typer.Context,
    prefix: Prefix,
    grace_hours: Annotated[float, typer.Option(help="The old key works on for so long.", min=0)] = 24,
) -> None:
    """Make a new key like an old one, which soon expires; the new one is shown once."""
    from services.prompt_api.keys import rotate_key

    pepper = load_settings().required_pepper()
    grace = time_span("--grace-hours", "hours", grace_hours)
    with transaction() as session:
        key = rotate_key(session, prefix, pepper=pepper, grace=grace)
    show_key(context, key, {"replaces": prefix[:11].removeprefix("sk_")[:8], "grace_hours": grace_hours})


def show_key(context: typer.Context, key: str, about: dict[str, object]) -> None:
    write_line(json.dumps({**about, "key": key}) if options(context).as_json else key)


def positive_time(option: str, unit: str, number: float | None) -> timedelta | None:
    if number is None:
        return None
    if not number > 0:
        raise Rejected(f"{option} {number:g} is not above 0; a key that is never valid opens nothing")
    return time_span(option, unit, number)


def time_span(option: str, unit: str, number: float) -> timedelta:
    try:
        span = timedelta(**{unit: number})
    except (OverflowError, ValueError) as error:
        raise Rejected(f"{option} {number:g} is no time span ({error}); leave it out for no end") from error
    if span > timedelta(days=36_500):
        raise Rejected(f"{option} {number:g} is more than a hundred years; leave it out for no end")
    return span


def checked_name(option: str, name: str, *, may_be_empty: bool = False) -> str:
    if len(name) > 100 or not name.isprintable() or not (name.strip() or may_be_empty):
        raise Rejected(f"{option} {name[:50]!r} is no name of 1 to 100 printable characters")
    return name


@teams.command("list")
def list_all_teams(context: typer.Context) -> None:
    """Show every team's weight and limits, and what of them is in use."""
    from services.prompt_api.teams import in_use, list_teams

    with transaction() as session:
        found = [(team, in_use(session, team.id)._asdict()) for team in list_teams(session)]
    if options(context).as_json:
        write_line(json.dumps([{**about(team), "in_use": used} for team, used in found]))
        return
    columns = ("team", "weight", "live jobs", "images of one dataset", "leased shards", "stored bytes")
    rows = [
        (
            team.name,
            str(team.weight),
            f"{used['live_jobs']}/{written(team.max_live_jobs)}",
            written(team.max_images),
            f"{used['leased_shards']}/{written(team.max_leased_shards)}",
            f"{used['stored_bytes']}/{written(team.max_stored_bytes)}",
        )
        for team, used in found
    ]
    options(context).show(columns, rows)


@teams.command("set")
def set_team(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of a team that `teams list` shows.")],
    weight: Annotated[str | None, typer.Option(help="Its share of the workers beside other teams' weights.")] = None,
    max_live_jobs: Limit = None,
    max_images: Limit = None,
    max_leased_shards: Limit = None,
    max_stored_bytes: Limit = None,
) -> None:
    """Change a team's share and limits; what is not given stays. Jobs that exist go on."""
    from services.prompt_api.teams import change_team

    given = {
        "max_live_jobs": max_live_jobs,
        "max_images": max_images,
        "max_leased_shards": max_leased_shards,
        "max_stored_bytes": max_stored_bytes,
    }
    changes = {column: limit_of(column, text) for column, text in given.items() if text is not None}
    if weight is not None:
        changes["weight"] = number_of("weight", weight, smallest=1, largest=1000)
    if not changes:
        raise Rejected("nothing is to be changed; give --weight or one of the limits, such as --max-live-jobs 20")
    with transaction() as session:
        team = about(change_team(session, name, changes))
    if options(context).as_json:
        write_line(json.dumps(team))
    else:
        options(context).say(", ".join(f"{column} {written(value)}" for column, value in team.items()))


def limit_of(column: str, text: str) -> int | None:
    # Other than the two counts of bytes and images, the columns hold 32 bits.
    largest = LARGEST if column in ("max_images", "max_stored_bytes") else 2**31 - 1
    return None if text == "none" else number_of(column, text, smallest=0, largest=largest)


def number_of(column: str, text: str, *, smallest: int, largest: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else -1
    if not smallest <= number <= largest:
        otherwise = "" if column == "weight" else ", or none"
        option = column.replace("_", "-")
        raise Rejected(f"--{option} {text[:50]!r} is no whole number from {smallest} to {largest}{otherwise}")
    return number


def about(team: "Team") -> dict[str, str | int | None]:
    columns = ("weight", "max_live_jobs", "max_images", "max_leased_shards", "max_stored_bytes")
    return {"team": team.name, **{column: getattr(team, column) for column in columns}}


def written(value: str | int | None) -> str:
    return "none" if value is None else str(value)
