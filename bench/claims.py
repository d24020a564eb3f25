"""How many shards a second eight workers can claim and commit, beside the barest queue on the same PostgreSQL server.

`python -m bench.claims` needs a PostgreSQL server that `createdb` reaches; durability is the server's default, so every
COMMIT waits for the disk. Both runs use the same number of processes and rows. The bare queue is one table and two
transactions a row, an UPDATE that skips locked rows and an UPDATE to `done`, sent by psycopg alone: no teams, no
fairness, no counts, no fence. Ours claims two shards at a time, as a worker with the default batch does.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import NamedTuple

import psycopg
from sqlalchemy import func, insert, select

from shared import leases
from shared.database import Database, database_now
from shared.ids import job_id
from shared.leases import ShardLease, StoredShard
from shared.tables import DatasetClass, DatasetShard, Job, Recipe, Shard, Team

from .accept_in1k import temporary_database
from .machine import write_result

WORKERS = 8
TEAMS = 4
JOBS_PER_TEAM = 3
CLASSES = 10
SHARDS_PER_CLASS = 120
SLOTS = 128
SHARDS = TEAMS * JOBS_PER_TEAM * CLASSES * SHARDS_PER_CLASS
SHARDS_PER_CLAIM = 2
# Links that the jobs have already finished: a claim must not walk over them.
FINISHED_LINKS = 50_000
MODEL = "bench"
# What the workers draw before the clock starts, so that a round measures a worker at work and not its first second,
# in which SQLAlchemy compiles each statement.
WARM_UP_MODEL = "warm-up"
WARM_UP_SHARDS_PER_CLASS = 10
WARM_UP_SHARDS = TEAMS * CLASSES * WARM_UP_SHARDS_PER_CLASS
ROUNDS = 3
LEAST_SHARDS_PER_SECOND = 500
PACKAGES = ("sqlalchemy", "psycopg")

CLAIM_BARE = """UPDATE bare SET state = 'leased' WHERE id = (
    SELECT id FROM bare WHERE state = 'pending' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id"""
END_BARE = "UPDATE bare SET state = 'done' WHERE id = %s"


class Measured(NamedTuple):
    """Shards per second."""

    ours: float
    bare: float


def fill_bare(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS bare")
        connection.execute("CREATE TABLE bare (id bigint PRIMARY KEY, state text NOT NULL)")
        connection.execute("CREATE INDEX ON bare (id) WHERE state = 'pending'")
        connection.execute("INSERT INTO bare SELECT n, 'pending' FROM generate_series(1, %s) AS n", (SHARDS,))


def work_bare(url: str, start: Barrier) -> None:
    with psycopg.connect(url) as connection:
        start.wait()
        while row := connection.execute(CLAIM_BARE).fetchone():
            connection.commit()
            connection.execute(END_BARE, row)
            connection.commit()


def fill_ours(url: str) -> None:
    """Teams of different weights, each with jobs of which one has a long past."""
    database = Database(url)
    with database.write() as session:
        for table in (DatasetShard, Shard, DatasetClass, Job):
            session.execute(table.__table__.delete())  # type: ignore[attr-defined]
    for team in range(TEAMS):
        with database.write() as session:
            session.merge(
                Team(id=f"team-{team}", name=f"team-{team}", weight=team + 1, created_at=database_now(session))
            )
        for number in range(JOBS_PER_TEAM):
            finished = FINISHED_LINKS if team == number == 0 else 0
            add_job(database, f"team-{team}", MODEL, pending=SHARDS_PER_CLASS, finished=finished)
        add_job(database, f"team-{team}", WARM_UP_MODEL, pending=WARM_UP_SHARDS_PER_CLASS, finished=0)
    database.engine.dispose()


def add_job(database: Database, team: str, model: str, *, pending: int, finished: int) -> None:
    """A job of a recipe of its own, every shard planned; `pending` of each class, and class 0 has the finished ones."""
    new_id = job_id("dataset")
    with database.write() as session:
        session.add(Recipe(digest=new_id, recipe={}, model=model))
        images = (CLASSES * pending + finished) * SLOTS
        session.add(
            Job(
                id=new_id,
                kind="dataset",
                team_id=team,
                state="queued",
                spec={"recipe_digest": new_id, "model": model},
                total=images,
                created_at=database_now(session),
            )
        )
        session.flush()
        session.execute(insert(DatasetClass), [class_row(new_id, position) for position in range(CLASSES)])
        for position in range(CLASSES):
            done = finished if position == 0 else 0
            session.execute(insert(Shard), [shard_row(new_id, position, n, done) for n in range(done + pending)])
        ids = session.execute(select(Shard.id, Shard.class_key, Shard.state).where(Shard.recipe_digest == new_id)).all()
        session.execute(insert(DatasetShard), [link_row(new_id, *row) for row in ids])


def class_row(of_job: str, position: int) -> dict[str, object]:
    text = {"id": str(position), "names": [str(position)]}
    row = {"job_id": of_job, "position": position, "class_id": str(position), "class_key": str(position), "text": text}
    return {**row, "total": (SHARDS_PER_CLASS + FINISHED_LINKS) * SLOTS}


def shard_row(recipe: str, position: int, number: int, done: int) -> dict[str, object]:
    state = "done" if number < done else "pending"
    start = number * SLOTS
    row = {"recipe_digest": recipe, "class_key": str(position), "start_slot": start, "stop_slot": start + SLOTS}
    return {**row, "state": state, "object_key": f"{recipe}/{position}/{number}" if state == "done" else None}


def link_row(of_job: str, shard_id: int, class_key: str, state: str) -> dict[str, object]:
    counted = SLOTS if state == "done" else 0
    return {"job_id": of_job, "shard_id": shard_id, "position": int(class_key), "take": SLOTS, "counted_done": counted}


def work_ours(url: str, start: Barrier) -> None:
    database = Database(url)
    draw_all(database, WARM_UP_MODEL)
    start.wait()
    draw_all(database, MODEL)
    database.engine.dispose()


def draw_all(database: Database, model: str) -> None:
    while claimed := claim(database, model):
        for lease in claimed:
            with database.write() as session:
                leases.commit(session, lease, drawn(lease))


def claim(database: Database, model: str) -> list[ShardLease]:
    with database.write() as session:
        return leases.claim_shards(session, worker="bench", models=[model], limit=SHARDS_PER_CLAIM, lease_seconds=600)


def drawn(lease: ShardLease) -> StoredShard:
    return StoredShard(lease.object_key, 1, "0" * 64, lease.stop_slot - lease.start_slot, (), {}, 1.0)


def shards_per_second(url: str, fill: Callable[[str], None], work: Callable[[str, Barrier], None]) -> float:
    fill(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(WORKERS + 1)
    processes = [spawn.Process(target=work, args=(url, start)) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    start.wait(60)
    started = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - started
    assert all(process.exitcode == 0 for process in processes)
    return SHARDS / seconds


def check_counts(url: str) -> None:
    database = Database(url)
    with database.read() as session:
        drawn_images, done = session.execute(select(func.sum(Job.drawn_images), func.sum(Job.done))).one()
    database.engine.dispose()
    assert drawn_images == done == (SHARDS + WARM_UP_SHARDS) * SLOTS, "a shard was counted twice or not at all"


def durability(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        names = ("synchronous_commit", "fsync", "server_version")
        return {name: str(connection.execute(f"SHOW {name}").fetchone()[0]) for name in names}  # type: ignore[index]


def main() -> None:
    rounds = []
    with temporary_database() as url:
        settings = durability(url)
        for _ in range(ROUNDS):
            bare = shards_per_second(url, fill_bare, work_bare)
            ours = shards_per_second(url, fill_ours, work_ours)
            check_counts(url)
            rounds.append(Measured(ours, bare))
            print(f"ours {ours:8.0f} shards/s   bare {bare:8.0f} shards/s   ratio {ours / bare:.2f}", flush=True)
    median = Measured(*(statistics.median(of_rounds) for of_rounds in zip(*rounds, strict=True)))
    ratio = statistics.median(measured.ours / measured.bare for measured in rounds)
    print(f"{WORKERS} workers, {TEAMS * JOBS_PER_TEAM} jobs of {TEAMS} teams, {SHARDS:,} shards a round; {settings}")
    print(f"median {median.ours:.0f} shards/s (at least {LEAST_SHARDS_PER_SECOND}), ratio {ratio:.2f}")
    facts = {
        "workers": WORKERS,
        "shards": SHARDS,
        "server": settings,
        "shards_per_second": [measured._asdict() for measured in rounds],
        "median": {**median._asdict(), "ratio": round(ratio, 3)},
    }
    write_result("claims", facts, PACKAGES)
    if median.ours < LEAST_SHARDS_PER_SECOND:
        sys.exit(1)


if __name__ == "__main__":
    main()
