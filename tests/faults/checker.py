"""Reads database and bucket after a fault: is everything that was promised there, once, and nothing stuck?"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shared.errors import AppError
from shared.shards import unpack
from shared.storage import ObjectStore
from shared.tables import DatasetClass, DatasetShard, Job, Shard

from .audit import changes, violations
from .client import Sight, backward

WRITTEN = ("images/", "datasets/", "trainings/", "evaluations/", "sweeps/")
TERMINAL = ("succeeded", "partial", "failed", "cancelled")


@dataclass
class Findings:
    """`problems` names every invariant that does not hold."""

    shards: int = 0
    lost: int = 0
    duplicated: int = 0
    executions: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def wasted(self) -> int:
        return self.executions - self.shards


def check(session: Session, store: ObjectStore, job_id: str, *, state: str, sights: list[Sight]) -> Findings:
    """I1 to I6 and I8 for one dataset that has ended in `state`."""
    job = session.get_one(Job, job_id)
    shards = session.execute(
        select(Shard, DatasetShard.take, DatasetShard.position)
        .join(DatasetShard, DatasetShard.shard_id == Shard.id)
        .where(DatasetShard.job_id == job_id)
    ).all()
    findings = Findings(shards=len(shards))
    note = findings.problems
    if job.state != state:
        note.append(f"{job_id} is {job.state} and not {state}: {job.error}")
    history = changes(session, job_id)
    findings.executions = sum(change.is_claim for change in history)
    note += violations(history)  # I4
    note += backward(sights)  # I5
    note += [f"shard {row.id} is still {row.state}" for row, _, _ in shards if row.state in ("leased", "pending")]  # I8
    images = manifest_images(store, job, note)
    if state == "succeeded":
        classes = asked_for(session, job_id)
        held = Counter(label for label, _ in images)
        note += wrong_classes(classes, held)
        findings.lost = sum(max(0, row.total - held[row.position]) for row in classes)
    else:
        findings.lost = max(0, job.done - len(images))
    findings.duplicated = sum(count - 1 for count in images.values()) + max(0, job.done - len(images))
    note += miscounts(session, job, [(row, take, position) for row, take, position in shards])
    if findings.lost or findings.duplicated:
        note.append(f"{findings.lost} images lost, {findings.duplicated} duplicated")
    return findings


def manifest_images(store: ObjectStore, job: Job, note: list[str]) -> Counter[tuple[int, int]]:
    """I1: how often each (label, slot) is in the objects of the manifest, each compared with what it says."""
    images: Counter[tuple[int, int]] = Counter()
    for entry in read_manifest(store, job, note)["shards"]:
        try:
            data = store.get(entry["key"])
        except AppError as problem:
            note.append(problem.detail)
            continue
        if (len(data), hashlib.sha256(data).hexdigest()) != (entry["bytes"], entry["sha256"]):
            note.append(f"object {entry['key']} differs from the manifest")
            continue
        taken = [slot for slot, _, _ in unpack(data) if 0 <= slot - entry["start"] < entry["take"]]
        images.update((entry["label"], slot) for slot in taken)
        if len(taken) != entry["accepted"]:
            note.append(f"object {entry['key']} holds {len(taken)} images, the manifest says {entry['accepted']}")
    return images


def asked_for(session: Session, job_id: str) -> Sequence[DatasetClass]:
    return session.scalars(select(DatasetClass).where(DatasetClass.job_id == job_id)).all()


def wrong_classes(classes: Sequence[DatasetClass], held: Counter[int]) -> list[str]:
    """I1: a class with more images than were asked for does not make up for one with fewer."""
    unknown = sorted(set(held) - {row.position for row in classes})
    return [
        *(
            f"class {row.class_id} has {held[row.position]} images, {row.total} were asked for"
            for row in classes
            if held[row.position] != row.total
        ),
        *(f"nobody asked for class number {label}" for label in unknown),
    ]


def read_manifest(store: ObjectStore, job: Job, note: list[str]) -> dict[str, Any]:
    if job.result is None:
        note.append(f"{job.id} has no manifest")
        return {"shards": []}
    data = store.get(str(job.result["manifest_key"]))
    if hashlib.sha256(data).hexdigest() != job.result["manifest_sha256"]:
        note.append(f"the manifest of {job.id} is not the one that was committed")
    content: dict[str, Any] = json.loads(data)
    return content


def miscounts(session: Session, job: Job, shards: list[tuple[Shard, int, int]]) -> list[str]:
    """I2: the counters equal a recount, for the job and for each class."""
    recount: Counter[int] = Counter()
    for shard, take, position in shards:
        if shard.state == "done":
            recount[position] += take - sum(slot < shard.start_slot + take for slot in shard.short_slots)
    problems = []
    # What was committed after a cancellation stays usable and counts no more.
    if job.state != "cancelled":
        problems = [
            f"class {row.class_id} counts {row.done} images, its shards hold {recount[row.position]}"
            for row in asked_for(session, job.id)
            if row.done != recount[row.position]
        ]
        if job.done != sum(recount.values()):
            problems.append(f"{job.id} counts {job.done} images, its shards hold {sum(recount.values())}")
    if job.done + job.failed > job.total:
        problems.append(f"{job.id} counts {job.done} + {job.failed} of {job.total}")
    return problems


def unacknowledged(session: Session, acknowledged: list[str]) -> list[str]:
    """I3: jobs that a user was given an id for and that are gone or have not ended."""
    rows = session.execute(select(Job.id, Job.state).where(Job.id.in_(acknowledged))).all()
    states = {row.id: row.state for row in rows}
    return [
        f"{job_id} is {states.get(job_id, 'gone')}" for job_id in acknowledged if states.get(job_id) not in TERMINAL
    ]


def stray_objects(session: Session, store: ObjectStore) -> list[str]:
    """I6: objects that no shard, no result and no checkpoint of a live job names."""
    known: set[object] = set(session.scalars(select(Shard.object_key)).all())
    for job in session.scalars(select(Job)):
        named = [*(job.result or {}).values()]
        if job.state not in TERMINAL:
            last = job.checkpoint or {}
            before = last.get("before")
            named += [last.get("key"), before["key"] if isinstance(before, dict) else None]
        known.update(value for value in named if isinstance(value, str))  # an evaluation's summary is no key
    return [entry.key for prefix in WRITTEN for entry in store.entries(prefix) if entry.key not in known]


def attempts(session: Session, job_id: str) -> int:
    """Attempts on record beyond the one that each finished shard needed."""
    return (
        session.scalar(
            select(func.coalesce(func.sum(Shard.attempts - 1), 0))
            .join(DatasetShard, DatasetShard.shard_id == Shard.id)
            .where(DatasetShard.job_id == job_id, Shard.state == "done")
        )
        or 0
    )
