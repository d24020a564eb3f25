"""`synthclone usage`: what the team's jobs have cost."""

from datetime import datetime
from typing import Annotated, get_args

import typer

from .console import options, write_json
from .models import JobKind, KindUsage, Usage

Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Such as 2026-11-01, in UTC.")]


def usage(context: typer.Context, since: Day = None, until: Day = None) -> None:
    """Show what the team's jobs have cost, by default this month's, and what its limits leave."""
    chosen = options(context)
    with chosen.client() as client:
        found = client.usage(since=since.date() if since else None, until=until.date() if until else None)
    if chosen.as_json:
        write_json(found)
        return
    columns = ("jobs of kind", "jobs", "done", "reused", "drawn images", "worker hours", "stored MB")
    chosen.show(columns, [kind_row(kind, getattr(found, kind)) for kind in get_args(JobKind)])
    chosen.say(f"team {found.team}, weight {found.weight}, {found.since} to {found.until}; {limits(found)}")


def kind_row(kind: str, used: KindUsage) -> tuple[str, ...]:
    counts = (used.jobs, used.done, used.reused, used.drawn_images)
    return (kind, *map(str, counts), f"{used.worker_seconds / 3600:.2f}", f"{used.stored_bytes / 1e6:.1f}")


def limits(found: Usage) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {'' if limit.used is None else f'{limit.used} of '}"
        f"{'any' if limit.limit is None else limit.limit}"
        for name, limit in found.limits.items()
    )
