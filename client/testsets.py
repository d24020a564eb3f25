"""`synthclone testsets`: an operator's commands for real image sets, which talk to the database and not to the API.

Only `list --remote` asks the API, as everybody may.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import Rejected

from .console import options, write_json, write_line
from .models import RealSet, RealSets
from .operating import transaction
from .setup import load_settings

if TYPE_CHECKING:
    from shared.vision.real.bucket import StoredSet

testsets = typer.Typer(help="Sets of real images: your own copies, registered by path.", no_args_is_help=True)
ROLES = ("train", "test", "transfer")
LAYOUTS = ("imagefolder", "webdataset", "archive", "csv", "ilsvrc2012")
COLUMNS = ("name", "role", "kind", "classes", "images", "location")


@testsets.command("add")
def add_set(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What requests call it, such as imagenet-val.")],
    location: Annotated[
        str, typer.Argument(help="Path, the same on trainers and evaluators; or s3://BUCKET/real/... for shards there.")
    ],
    kind: Annotated[str | None, typer.Option(help="A published set, whose classes and counts are checked.")] = None,
    role: Annotated[str | None, typer.Option(help="train or test; only for a set without a kind.")] = None,
    layout: Annotated[str, typer.Option(help=f"One of {', '.join(LAYOUTS)}.")] = "imagefolder",
    classes: Annotated[str | None, typer.Option(help="Restrict it to a class list, such as in100.")] = None,
    crop_pct: Annotated[float, typer.Option(help="Central square shown, in shares of the short side.")] = 0.875,
    allow_other_counts: Annotated[bool, typer.Option("--allow-other-counts", help="For a cut made to try.")] = False,
) -> None:
    """Read a set's images once and register it; nothing is copied, so they must stay where they are."""
    from shared.vision.real.registered import NewSet, inspect, refuse_taken, register

    from shared.classes import listed_wnids

    for option, value, known in (("--role", role, ROLES), ("--layout", layout, LAYOUTS)):
        if value is not None and value not in known:
            raise Rejected(f"{option} {value[:50]!r} is unknown; known: {', '.join(known)}")
    new = NewSet(
        name,
        place_of(location),
        kind,
        role,  # type: ignore[arg-type]
        layout,  # type: ignore[arg-type]
        listed_wnids(classes) if classes is not None else None,
        crop_pct,
        allow_other_counts,
    )
    with transaction() as session:
        refuse_taken(session, name)
    # Minutes for a large set, in which no transaction may wait.
    found = inspect(new, cache_dir=load_settings().cache_dir / "realsets")
    with transaction() as session:
        known_set = register(session, found)
    counts = f"{known_set.images:,} images of {len(known_set.class_ids)} classes"
    options(context).say(f"{name} is registered as a {known_set.role} set: {counts}")


def place_of(location: str) -> "Path | StoredSet":
    from shared.vision.real.bucket import SCHEME, stored_set

    from shared.storage import open_store

    if not location.startswith(SCHEME):
        return Path(location)
    settings = load_settings()
    return stored_set(location, open_store(settings), bucket=settings.s3_bucket)


@testsets.command("list")
def list_sets(
    context: typer.Context,
    remote: Annotated[bool, typer.Option("--remote", help="Ask the API: what requests may name.")] = False,
) -> None:
    """Show the built-in and the registered sets."""
    if remote:
        show_remote(context)
        return
    from shared.realsets import registered_sets

    with transaction() as session:
        known = registered_sets(session).values()
    rows = []
    for each in known:
        where = each.place.location if each.place else "built in"
        kind = (each.place.kind if each.place else None) or "-"
        rows.append((each.name, each.role, kind, str(len(each.class_ids)), str(each.images), where))
    options(context).show(COLUMNS, rows)


def show_remote(context: typer.Context) -> None:
    chosen = options(context)
    with chosen.client() as client:
        found = list(client.testsets.list())
    if chosen.as_json:
        write_json(RealSets(found))
    else:
        chosen.show(COLUMNS[:-1], [cells(known) for known in found])


def cells(known: RealSet) -> tuple[str, ...]:
    return (known.name, known.role, known.kind or "-", str(known.classes), str(known.images))


@testsets.command("remove")
def remove_set(name: Annotated[str, typer.Argument(help="As `synthclone testsets list` shows it.")]) -> None:
    """Forget a registered set; its files stay."""
    from shared.vision.real.registered import remove

    with transaction() as session:
        remove(session, name)
    write_line(f"{name} is no longer registered; its files are where they were")
