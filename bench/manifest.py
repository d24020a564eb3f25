"""What the manifest of ImageNet-1K at 50x costs the dispatcher: seconds and memory, beside a plain select of its rows.

`python -m bench.manifest` needs a PostgreSQL server that `createdb` reaches. Each is measured in a process of its own,
because peak memory never goes down; the select streams its rows and keeps none.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from services.dispatcher.finish import write_manifest
from shared.database import Database, database_now
from shared.ids import job_id
from shared.storage import LocalStore
from shared.tables import DatasetClass, DatasetShard, Job, Recipe, Shard

from .accept_in1k import ROOT, temporary_database
from .machine import write_result

CLASSES = 1000
SHARDS_PER_CLASS = 500
SLOTS = 128
DIGEST = "0" * 64
PACKAGES = ("sqlalchemy", "psycopg")
COLUMNS = (
    DatasetShard.position,
    DatasetShard.take,
    Shard.object_key,
    Shard.size_bytes,
    Shard.sha256,
    Shard.start_slot,
    Shard.stop_slot,
    Shard.short_slots,
)


def fill(database: Database) -> None:
    """One dataset with all of its shards done, a class at a time."""
    with database.write() as session:
        now = database_now(session)
        session.add(Recipe(digest=DIGEST, recipe={}, model="sd14"))
        total = CLASSES * SHARDS_PER_CLASS * SLOTS
        names = {"kind": "dataset", "team_id": "default", "state": "running", "spec": {"recipe_digest": DIGEST}}
        job = Job(id=job_id("dataset"), **names, total=total, done=total, created_at=now)
        session.add(job)
        session.flush()
        for position in range(CLASSES):
            fill_class(session, job.id, position)


def fill_class(session: Session, dataset: str, position: int) -> None:
    class_id = f"n{position:08d}"
    key = f"{class_id}-{'0' * 16}"
    total = SHARDS_PER_CLASS * SLOTS
    text = {"id": class_id, "names": [class_id]}
    row = {"class_id": class_id, "class_key": key, "text": text, "total": total, "done": total}
    session.add(DatasetClass(job_id=dataset, position=position, **row))
    session.flush()
    starts = range(0, total, SLOTS)
    rows = [done_shard(key, start) for start in starts]
    ids = session.scalars(insert(Shard).returning(Shard.id), rows).all()
    link = {"job_id": dataset, "position": position, "take": SLOTS, "counted_done": SLOTS}
    session.execute(insert(DatasetShard), [{**link, "shard_id": shard_id} for shard_id in ids])


def done_shard(class_key: str, start: int) -> dict[str, object]:
    return {
        "recipe_digest": DIGEST,
        "class_key": class_key,
        "start_slot": start,
        "stop_slot": start + SLOTS,
        "state": "done",
        "fence": 1,
        "object_key": f"images/{DIGEST}/{class_key}/{start:08d}-{start + SLOTS:08d}-1.tar",
        "size_bytes": 10_000_000,
        "sha256": f"{start:064x}",
        "accepted": SLOTS,
        "short_slots": [],
    }


def write(database: Database) -> int:
    """Bytes of the manifest."""
    with database.read() as session:
        job = session.scalars(select(Job)).one()
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        result = write_manifest(database, store, job)
        return store.size(str(result["manifest_key"])) or 0


def read(database: Database) -> int:
    """Rows read."""
    query = select(*COLUMNS).join(DatasetShard, DatasetShard.shard_id == Shard.id).where(Shard.state == "done")
    query = query.order_by(DatasetShard.position, Shard.start_slot).execution_options(yield_per=1000)
    with database.read() as session:
        return sum(1 for _ in session.execute(query))


WORK = {"write": write, "read": read}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, url: str) -> None:
    """In a process of its own: prints what one piece of work took."""
    database = Database(url)
    with database.read() as session:
        session.scalar(select(Job.id))
    before, started = peak_mib(), time.perf_counter()
    size = WORK[name](database)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": round(seconds, 2), "mib": round(peak_mib() - before, 1), "size": size}))


def measured(name: str, url: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.manifest", name, url]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(answer.stdout)
    return found


def main() -> None:
    with temporary_database() as url:
        database = Database(url)
        fill(database)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
        database.engine.dispose()
        plain, ours = measured("read", url), measured("write", url)
    shards = CLASSES * SHARDS_PER_CLASS
    assert plain["size"] == shards
    ratio = round(ours["seconds"] / plain["seconds"], 2)
    print(f"{shards:,} shards, manifest of {ours['size'] / 2**20:.0f} MiB; PostgreSQL")
    print(f"{'':10}{'manifest':>10}{'select':>10}{'ratio':>8}")
    print(f"{'seconds':10}{ours['seconds']:10.2f}{plain['seconds']:10.2f}{ratio:8.2f}")
    print(f"{'peak MiB':10}{ours['mib']:10.1f}{plain['mib']:10.1f}")
    write_result("manifest", {"shards": shards, "manifest": ours, "select": plain, "seconds_ratio": ratio}, PACKAGES)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(*sys.argv[1:])
    else:
        main()
