"""What ended shards mean for the datasets that take from them. Each link remembers what it has added, so that nothing
is counted twice, whatever is repeated.

Call these with the shards' rows locked. The one lock order is shards, links, classes, jobs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Row, Update, bindparam, func, select, true, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from . import lifecycle
from .database import clock
from .tables import ACTIVE, Base, JsonObject

# A job with many workers commits many shards a second; readers of events need no more than this.
PROGRESS_SECONDS = 1.0
# These statements are made once, and of columns instead of mapped classes: a commit spends more time in building its
# statements than PostgreSQL does in running them (bench/claims.py).
JOBS, SHARDS, LINKS, CLASSES, EVENTS = (
    Base.metadata.tables[name] for name in ("jobs", "shards", "dataset_shards", "dataset_classes", "events")
)
LIVE_LINKS = (
    select(
        *(LINKS.c[name] for name in ("job_id", "shard_id", "position", "take", "counted_done", "counted_failed")),
        *(SHARDS.c[name] for name in ("state", "start_slot", "stop_slot", "short_slots", "rejections")),
    )
    .join_from(LINKS, SHARDS, SHARDS.c.id == LINKS.c.shard_id)
    .join(JOBS, JOBS.c.id == LINKS.c.job_id)
    .where(SHARDS.c.id.in_(bindparam("shard_ids", expanding=True)), JOBS.c.state.in_(ACTIVE))
    .order_by(LINKS.c.job_id, LINKS.c.position)
    .with_for_update(of=JOBS, read=True, key_share=True)
)
SET_LINK = (
    update(LINKS)
    .where(LINKS.c.job_id == bindparam("of_job"), LINKS.c.shard_id == bindparam("of_shard"))
    .values(counted_done=bindparam("now_done"), counted_failed=bindparam("now_failed"))
)
ADD_TO_CLASS = (
    update(CLASSES)
    .where(CLASSES.c.job_id == bindparam("of_job"), CLASSES.c.position == bindparam("at"))
    .values({name: CLASSES.c[name] + bindparam(f"more_{name}") for name in ("done", "failed", "rejected")})
)
COUNTED = ("done", "failed", "rejected", "reused", "planned_images", "drawn_images", "stored_bytes", "spent_seconds")
TOLD_AT = (
    select(EVENTS.c.at)
    .where(EVENTS.c.job_id == JOBS.c.id, EVENTS.c.type == "progress")
    .order_by(EVENTS.c.seq.desc())
    .limit(1)
    .correlate(JOBS)
    .scalar_subquery()
)
ADD_TO_JOB = (
    update(JOBS)
    .values({name: JOBS.c[name] + bindparam(f"more_{name}") for name in COUNTED} | {"version": JOBS.c.version + 1})
    .returning(
        *(JOBS.c[name] for name in ("done", "failed", "total")),
        # No progress was told of for a while.
        func.coalesce(clock(-PROGRESS_SECONDS) > TOLD_AT, true()).label("was_silent"),
    )
)
ADD_TO_JOB_ALONE = ADD_TO_JOB.where(JOBS.c.id == bindparam("of_job"))


def chained() -> ReturningUpdate[int, int, int, bool]:
    """All that one link adds, as one statement. Each part reads what the part before returns, so the order of locks is
    the same as that of single statements."""
    link = SET_LINK.returning(LINKS.c.job_id).cte("link")
    in_class = ADD_TO_CLASS.where(CLASSES.c.job_id == link.c.job_id).returning(CLASSES.c.job_id).cte("in_class")
    return ADD_TO_JOB.where(JOBS.c.id == in_class.c.job_id)


ADD_ALL = chained()


class Link(NamedTuple):
    """A live dataset's share of one shard, with what it has added so far."""

    job_id: str
    shard_id: int
    position: int
    take: int
    counted_done: int
    counted_failed: int
    state: str
    start_slot: int
    stop_slot: int
    short_slots: list[int]
    rejections: JsonObject

    @property
    def target(self) -> tuple[int, int]:
        """Images done and failed that this link stands for; nothing while its shard is to be drawn."""
        if self.state == "failed":
            return 0, self.take
        if self.state != "done":
            return 0, 0
        short = sum(slot < self.start_slot + self.take for slot in self.short_slots)
        return self.take - short, short

    @property
    def is_first(self) -> bool:
        return self.counted_done + self.counted_failed == 0

    @property
    def rejected(self) -> int:
        if self.state != "done" or not self.is_first:
            return 0
        return sum(int(count) for count in self.rejections.values() if isinstance(count, int))


class Cost(NamedTuple):
    """What a commit made, and for which job."""

    job_id: str
    images: int
    stored_bytes: int
    seconds: float


class Gain:
    """What is added to one job, by column."""

    def __init__(self) -> None:
        self.amounts = dict.fromkeys(COUNTED, 0.0)
        self.is_counted = False

    @property
    def values(self) -> dict[str, float]:
        return {f"more_{name}": amount for name, amount in self.amounts.items()}

    def add(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self.amounts[name] += amount


def count(
    session: Session, shard_ids: Sequence[int], *, reused_by: str | None = None, cost: Cost | None = None
) -> None:
    """Bring every live dataset's counts in line with these shards; `cost` goes to its job whatever its state."""
    session.flush()
    connection = session.connection()
    links = live_links(connection, shard_ids)
    changed = [link for link in links if link.target != (link.counted_done, link.counted_failed)]
    found = gains(changed, reused_by, cost)
    if connection.dialect.name == "postgresql" and len(changed) == len(found) == 1:
        write_one(session, changed[0], found[changed[0].job_id])
        return
    write_links(connection, changed)
    write_classes(connection, changed)
    for job_id, gain in sorted(found.items()):
        tell(session, job_id, gain, connection.execute(ADD_TO_JOB_ALONE, {"of_job": job_id, **gain.values}).first())


def live_links(connection: Connection, shard_ids: Sequence[int]) -> list[Link]:
    """In the order in which their classes are locked.

    The key-share lock lets other commits count in the job at the same time, but not the dispatcher end it: it locks
    the job FOR UPDATE. So what the links say and what the job says end up equal.
    """
    return [Link(*row) for row in connection.execute(LIVE_LINKS, {"shard_ids": list(shard_ids)})]


def write_links(connection: Connection, links: Iterable[Link]) -> None:
    execute_each(connection, SET_LINK, [values_of(link) for link in links])


def values_of(link: Link) -> dict[str, object]:
    done, failed = link.target
    return {"of_job": link.job_id, "of_shard": link.shard_id, "now_done": done, "now_failed": failed}


def write_classes(connection: Connection, links: Iterable[Link]) -> None:
    totals: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for link in links:
        done, failed = link.target
        amounts = (done - link.counted_done, failed - link.counted_failed, link.rejected)
        for index, amount in enumerate(amounts):
            totals[link.job_id, link.position][index] += amount
    execute_each(
        connection,
        ADD_TO_CLASS,
        [
            {"of_job": job_id, "at": position, "more_done": done, "more_failed": failed, "more_rejected": rejected}
            for (job_id, position), (done, failed, rejected) in sorted(totals.items())
        ],
    )


def execute_each(connection: Connection, statement: Update, rows: Sequence[Mapping[str, object]]) -> None:
    """In the order given, which is that of their locks."""
    if rows:
        connection.execute(statement, rows if len(rows) > 1 else rows[0])


def gains(links: Iterable[Link], reused_by: str | None, cost: Cost | None) -> Mapping[str, Gain]:
    found: dict[str, Gain] = defaultdict(Gain)
    for link in links:
        done, failed = link.target
        gain = found[link.job_id]
        gain.is_counted = True
        gain.add(done=done - link.counted_done, failed=failed - link.counted_failed, rejected=link.rejected)
        if link.job_id == reused_by and link.is_first:
            gain.add(reused=done)
        if cost is not None and link.job_id != cost.job_id and link.is_first:
            # Another dataset paid for this one; what was set aside for it may be spent elsewhere.
            gain.add(planned_images=link.start_slot - link.stop_slot)
    if cost is not None:
        paid = found[cost.job_id]
        paid.add(drawn_images=cost.images, stored_bytes=cost.stored_bytes, spent_seconds=cost.seconds)
    return found


def write_one(session: Session, link: Link, gain: Gain) -> None:
    """What nearly every commit does, in one round trip."""
    values = {**values_of(link), "at": link.position, **gain.values}
    tell(session, link.job_id, gain, session.connection().execute(ADD_ALL, values).first())


def tell(session: Session, job_id: str, gain: Gain, row: Row[int, int, int, bool] | None) -> None:
    """Leave an event, unless the job has left one just now and goes on."""
    if row is not None and gain.is_counted and (row.was_silent or row.done + row.failed == row.total):
        payload: JsonObject = {"done": row.done, "failed": row.failed, "total": row.total}
        lifecycle.record(session, job_id, "progress", payload)
