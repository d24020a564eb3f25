"""Runs faults on a cluster, one dataset each, and measures what each did."""

import random
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from .audit import Change, changes
from .checker import Findings, attempts, check, stray_objects, unacknowledged
from .cluster import STRAY_SECONDS, SWEEP_SECONDS, Cluster
from .scene import SLACK_SECONDS, Blow, Fault, Scene

END_SECONDS = 150
HEAD = ("fault", "times", "shards", "lost", "duplicated", "wasted", "seconds to recover")


class Row(NamedTuple):
    """A line of the table."""

    fault: str
    times: int
    shards: int
    lost: int
    duplicated: int
    wasted: int
    recovery_seconds: float | None
    problems: tuple[str, ...]
    not_shown: str = ""
    """Why this machine cannot show it."""


def run(cluster: Cluster, fault: Fault, *, seed: int) -> Row:
    """Draw a dataset, strike while it is drawn, wait for its end, then check."""
    user = cluster.user
    user.surprises.clear()
    request = {
        "classes": [{"name": name} for name in fault.classes],
        "images_per_class": fault.images_per_class,
        "seed": seed,
        **fault.request,
    }
    scene = Scene(cluster, request, random.Random(seed))
    if not fault.begins_itself:
        scene.begin()
    fault.strike(scene)
    job_id = scene.job_id
    user.ended(job_id, seconds=END_SECONDS)
    fault.after(scene)
    time.sleep(0.5)  # what was under way when it ended
    with cluster.database.read() as session:
        findings = check(session, cluster.store, job_id, state=fault.state, sights=user.sights[job_id])
        history = changes(session, job_id)
        later = [change for other in scene.others for change in changes(session, other)]
        scene.problems += unacknowledged(session, user.acknowledged)
        burnt = attempts(session, job_id)
    scene.expect(fault.burns_attempts or burnt == 0, f"{burnt} attempts were used up")
    scene.problems += user.surprises
    return row(fault, scene, findings, history, later)


def row(fault: Fault, scene: Scene, findings: Findings, history: list[Change], later: list[Change]) -> Row:
    """`later` is what happened to further datasets: it shows that work goes on, and not how soon."""
    seconds = [taken for blow in scene.blows if (taken := recovery(blow, history)) is not None]
    problems = findings.problems + scene.problems
    if not fault.begins_itself and not fault.lasts:
        problems += unrecovered(scene.blows, sorted(history + later, key=lambda change: change.at))
    # A victim may have claimed once more between the look at what it held and the blow.
    most_wasted = fault.most_wasted + sum(len(blow.held) + 3 for blow in scene.blows if blow.held)
    if findings.wasted > most_wasted:
        problems.append(f"{findings.wasted} executions wasted, at most {most_wasted} were expected")  # I6
    if seconds and max(seconds) > fault.most_seconds + SLACK_SECONDS:
        problems.append(f"{max(seconds):.1f} s to recover, at most {fault.most_seconds:.1f} s were expected")  # I7
    return Row(
        fault.name,
        len(scene.blows),
        findings.shards,
        findings.lost,
        findings.duplicated,
        findings.wasted,
        max(seconds, default=None),
        tuple(problems),
    )


def recovery(blow: Blow, history: list[Change]) -> float | None:
    """Seconds until every claim that was hit was claimed anew, or until the next commit where none was hit."""
    if not blow.held:
        return first(blow.over_at, [change.at for change in history if change.is_commit])
    fences = dict(blow.held)
    again = [
        first(blow.over_at, [change.at for change in history if change.is_claim and is_next(change, shard_id, fence)])
        for shard_id, fence in fences.items()
    ]
    return max((seconds for seconds in again if seconds is not None), default=None)


def unrecovered(blows: Sequence[Blow], history: list[Change]) -> list[str]:
    """A fault after which nothing had to go on shows nothing; and no claim that was hit may be forgotten."""
    after = first(blows[-1].over_at, [change.at for change in history if change.is_commit]) if blows else None
    problems = [] if after is not None else ["nothing was committed after the last blow"]
    problems += [
        f"shard {shard_id} was held at fence {fence}, and neither committed nor claimed again"
        for blow in blows
        for shard_id, fence in blow.held
        if not any(ends_claim(change, shard_id, fence) for change in history)
    ]
    return problems


def ends_claim(change: Change, shard_id: int, fence: int) -> bool:
    if change.is_commit and (change.shard_id, change.fence) == (shard_id, fence):
        return True
    return change.is_claim and is_next(change, shard_id, fence)


def is_next(change: Change, shard_id: int, fence: int) -> bool:
    return change.shard_id == shard_id and change.fence > fence


def first(since: datetime, moments: list[datetime]) -> float | None:
    return next(((moment - since).total_seconds() for moment in moments if moment >= since), None)


def sweep(cluster: Cluster) -> list[str]:
    """Objects that nothing refers to once the sweeper had time for them."""
    deadline = time.monotonic() + STRAY_SECONDS + 3 * SWEEP_SECONDS + 10
    strays = ["not looked yet"]
    while strays and time.monotonic() < deadline:
        time.sleep(1)
        with cluster.database.read() as session:
            strays = stray_objects(session, cluster.store)
    return [f"{key} is in no row and was not swept" for key in strays]


def table(rows: list[Row]) -> str:
    lines = [cells(row) for row in rows]
    widths = [max(len(line[column]) for line in [HEAD, *lines]) for column in range(len(HEAD))]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([written(HEAD, widths), f"|{rule}|", *(written(line, widths) for line in lines)])


def cells(row: Row) -> tuple[str, ...]:
    """As `HEAD` names them."""
    numbers = (row.times, row.shards, row.lost, row.duplicated, row.wasted)
    return row.fault, *(str(number) for number in numbers), recovered(row)


def recovered(row: Row) -> str:
    if row.not_shown:
        return f"not shown: {row.not_shown}"
    return "-" if row.recovery_seconds is None else f"{row.recovery_seconds:.1f}"


def written(line: tuple[str, ...], widths: list[int]) -> str:
    cells = (
        cell.ljust(width) if not index else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    return "| " + " | ".join(cells) + " |"
