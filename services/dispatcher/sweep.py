"""Deletes objects that no row refers to, once they are old enough that nobody can still be about to commit them.

Only names that the services write are looked at; everything else in the bucket is left alone. One bucket belongs to
one database: what another installation stored there would be nothing but strays to this one.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.database import Database
from shared.storage import Entry, ObjectStore
from shared.tables import TERMINAL, Job, JsonObject, Shard

logger = logging.getLogger(__name__)
# Entries that are looked up at once; with the listing's own pages all that is in memory at a time.
BATCH = 500
JOB = r"(?P<job>(?:ds|tr|ev|ex|pr)-[0-9a-z]{26})"
IMAGES = re.compile(r"images/(?P<recipe>[^/]+)/(?P<class>[^/]+)/(?P<start>\d+)-\d+-(?P<fence>\d+)\.tar")
OF_JOBS = (
    re.compile(rf"datasets/{JOB}/manifest-[^/]+\.json"),
    re.compile(rf"trainings/{JOB}/checkpoints/\d+-(?P<fence>\d+)\.safetensors"),
    re.compile(rf"trainings/{JOB}/(?:encoder|metrics)-(?P<fence>\d+)\.(?:safetensors|json|jsonl)"),
    re.compile(rf"evaluations/{JOB}/(?:report|predictions|bars)-(?P<fence>\d+)\.(?:json|safetensors|md|html|svg|png)"),
    re.compile(rf"experiments/{JOB}/[a-z0-9-]+-(?P<fence>\d+)\.(?:json|md|html|svg|png)"),
    re.compile(rf"probes/{JOB}/report-(?P<fence>\d+)\.json"),
)
# What a sweep that was cut off leaves behind, and in a folder what a cut-off write does.
LEFT_OVERS = re.compile(r"sweeps/clock-[0-9a-f]+|.*/\.part-[^/]+")


class Stray(NamedTuple):
    """`is_unforeseen`: the rows have not come so far yet, as after the restore of an older database."""

    entry: Entry
    is_unforeseen: bool


@dataclass
class Swept:
    looked_at: int = 0
    unknown: int = 0
    objects: int = 0
    bytes: int = 0


def sweep(database: Database, store: ObjectStore, *, stray_seconds: float) -> Iterator[None]:
    """Pauses after each batch and each deleted object."""
    if not has_jobs(database):
        logger.warning("nothing swept: this database has no job, so the bucket may belong to another one")
        return
    before = store_now(store) - timedelta(seconds=stray_seconds)
    swept = Swept()
    for prefix in ("images/", "datasets/", "trainings/", "evaluations/", "experiments/", "probes/", "sweeps/"):
        entries = old_entries(store.entries(prefix), before, swept)
        while batch := list(islice(entries, BATCH)):
            yield
            with database.read() as session:
                strays = find_strays(session, batch, swept)
            for stray in strays:
                delete(store, stray, before, swept)
                yield
    logger.info("swept", extra=vars(swept))


def has_jobs(database: Database) -> bool:
    with database.read() as session:
        return session.scalar(select(Job.id).limit(1)) is not None


def store_now(store: ObjectStore) -> datetime:
    """The clock that dates the objects, which need not agree with ours."""
    key = f"sweeps/clock-{uuid4().hex}"
    store.put(key, b"now")
    try:
        return next(store.entries(key)).modified_at
    finally:
        store.delete(key)


def old_entries(entries: Iterable[Entry], before: datetime, swept: Swept) -> Iterator[Entry]:
    for entry in entries:
        swept.looked_at += 1
        if entry.modified_at < before:
            yield entry


def delete(store: ObjectStore, stray: Stray, before: datetime, swept: Swept) -> None:
    # A claim after the restore has the same fence, so the same name, as one before: it may just have been written.
    if stray.is_unforeseen and not is_still_old(store, stray.entry.key, before):
        return
    store.delete(stray.entry.key)
    swept.objects += 1
    swept.bytes += stray.entry.size_bytes
    logger.info("stray object deleted", extra={"key": stray.entry.key, "bytes": stray.entry.size_bytes})


def is_still_old(store: ObjectStore, key: str, before: datetime) -> bool:
    return any(entry.key == key and entry.modified_at < before for entry in store.entries(key))


def find_strays(session: Session, batch: Sequence[Entry], swept: Swept) -> list[Stray]:
    images: list[tuple[Entry, re.Match[str]]] = []
    of_jobs: list[tuple[Entry, re.Match[str]]] = []
    left_over: list[Stray] = []
    for entry in batch:
        if LEFT_OVERS.fullmatch(entry.key):
            left_over.append(Stray(entry, is_unforeseen=False))
        elif match := IMAGES.fullmatch(entry.key):
            images.append((entry, match))
        elif match := next((found for name in OF_JOBS if (found := name.fullmatch(entry.key))), None):
            of_jobs.append((entry, match))
        else:
            swept.unknown += 1
    return [*stray_images(session, images), *stray_results(session, of_jobs), *left_over]


def stray_images(session: Session, found: Sequence[tuple[Entry, re.Match[str]]]) -> Iterator[Stray]:
    """A listing is in order, so one batch spans few recipes and classes and their rows are about as many."""
    places = {(match["recipe"], match["class"], int(match["start"])) for _, match in found}
    rows = session.execute(
        select(
            Shard.recipe_digest,
            Shard.class_key,
            Shard.start_slot,
            Shard.object_key,
            Shard.fence,
            Shard.state,
        ).where(
            Shard.recipe_digest.in_({recipe for recipe, _, _ in places}),
            Shard.class_key.in_({class_key for _, class_key, _ in places}),
            Shard.start_slot.in_({start for _, _, start in places}),
        )
    )
    known = {(row.recipe_digest, row.class_key, row.start_slot): row for row in rows}
    for entry, match in found:
        row = known.get((match["recipe"], match["class"], int(match["start"])))
        fence = int(match["fence"])
        if row is None:
            yield Stray(entry, is_unforeseen=True)
        elif entry.key != row.object_key and not (row.state == "leased" and fence == row.fence):
            yield Stray(entry, is_unforeseen=fence > row.fence)


def stray_results(session: Session, found: Sequence[tuple[Entry, re.Match[str]]]) -> Iterator[Stray]:
    ids = {match["job"] for _, match in found}
    jobs = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids)))}
    for entry, match in found:
        job = jobs.get(match["job"])
        # The id of a new job is never that of an old one, and a lost lease never comes back.
        if job is None or not is_kept(job, entry.key, match.groupdict().get("fence")):
            yield Stray(entry, is_unforeseen=False)


def is_kept(job: Job, key: str, fence: str | None) -> bool:
    if key in references(job):
        return True
    if fence is None:
        # A manifest is named after its content: before the end, or while one is written anew, it may come to be used.
        return job.state not in TERMINAL or job.is_manifest_stale
    return job.state not in TERMINAL and int(fence) >= job.fence


def references(job: Job) -> set[str]:
    """The keys in a job's result, and its checkpoint for as long as the job can go on from it."""
    rows: list[JsonObject] = [job.result or {}]
    if job.state not in TERMINAL and job.checkpoint is not None:
        before = job.checkpoint.get("before")
        rows += [job.checkpoint, before if isinstance(before, dict) else {}]
    return {value for row in rows for name, value in row.items() if name.endswith("key") and isinstance(value, str)}
