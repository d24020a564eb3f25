"""How long ImageNet-1K at 50x takes to be accepted, and how fast its job answers, beside a bare FastAPI application.

`python -m bench.accept_in1k` needs a PostgreSQL server that `createdb` reaches; both applications run in processes of
their own on the same server, one after the other, and are asked over a socket. Ours shows a running job: its shards
are planned and one window of them finished, so rate and class counts are worked out for every GET.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2

from services.dispatcher.tick import tick
from shared import leases
from shared.database import Database
from shared.leases import ShardLease, StoredShard
from shared.schema import upgrade
from shared.settings import Settings
from shared.storage import LocalStore

from .machine import write_result

ROOT = Path(__file__).parents[1]
MODEL = "sd14"
REQUEST = {"classes": "in1k", "prompt": "description", "scale": 2, "size": "50x", "model": MODEL}
POSTS = 7
GETS = 200
PACKAGES = ("fastapi", "uvicorn", "sqlalchemy", "psycopg", "pydantic")


class Measured(NamedTuple):
    """Seconds; the first POST stands apart because it opens the connection."""

    first_post: float
    median_post: float
    slowest_post: float
    median_get: float
    p99_get: float


@contextmanager
def temporary_database() -> Iterator[str]:
    name = f"synthclone_bench_{os.getpid()}"
    subprocess.run(["createdb", name], check=True)
    try:
        database = Database(f"postgresql:///{name}")
        upgrade(database)
        database.engine.dispose()
        yield f"postgresql:///{name}"
    finally:
        subprocess.run(["dropdb", "--force", name], check=True)


@contextmanager
def served(module: str, database_url: str) -> Iterator[httpx2.Client]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {"SYNTHCLONE_DATABASE_URL": database_url, "SYNTHCLONE_API_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, env=os.environ | variables)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_alive(client)
            yield client
    finally:
        process.terminate()
        process.wait()


def wait_until_alive(client: httpx2.Client) -> None:
    for _ in range(300):
        try:
            client.get("/livez")
        except httpx2.ConnectError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the application did not start in 30 seconds")


class Posted(NamedTuple):
    seconds: list[float]
    location: str  # of the first job, from which workers claim first


def post_all(client: httpx2.Client) -> Posted:
    seconds, locations = [], []
    for _ in range(POSTS):
        started = time.perf_counter()
        answer = client.post("/datasets", json=REQUEST)
        seconds.append(time.perf_counter() - started)
        assert answer.status_code == 202, answer.text
        locations.append(answer.headers["Location"])
    return Posted(seconds, locations[0])


def measure(client: httpx2.Client, posted: Posted) -> Measured:
    gets = [time_get(client, posted.location) for _ in range(GETS)]
    return Measured(
        posted.seconds[0],
        statistics.median(posted.seconds[1:]),
        max(posted.seconds),
        statistics.median(gets),
        statistics.quantiles(gets, n=100)[98],
    )


def draw_a_window(database_url: str) -> None:
    """Plan the jobs' first shards as the dispatcher does, and count all but one as drawn, as a worker does."""
    settings = Settings(database_url=database_url)
    database = Database(settings.sqlalchemy_url)
    with tempfile.TemporaryDirectory() as folder:
        tick(database, LocalStore(Path(folder)), settings, absent={})
    with database.write() as session:
        claimed = leases.claim_shards(
            session, worker="bench", models=[MODEL], limit=settings.plan_window, lease_seconds=600
        )
    for lease in claimed[1:]:
        with database.write() as session:
            leases.commit(session, lease, drawn(lease))
    database.engine.dispose()


def drawn(lease: ShardLease) -> StoredShard:
    return StoredShard(lease.object_key, 1, "0" * 64, lease.stop_slot - lease.start_slot, (), {})


def time_get(client: httpx2.Client, location: str) -> float:
    started = time.perf_counter()
    assert client.get(location).status_code == 200
    return time.perf_counter() - started


def main() -> None:
    with temporary_database() as url:
        with served("bench.bare_api", url) as client:
            bare = measure(client, post_all(client))
        with served("services.prompt_api", url) as client:
            posted = post_all(client)
            draw_a_window(url)
            ours = measure(client, posted)
            job = client.get(posted.location).json()
    images, done = job["counts"]["total"], job["counts"]["done"]
    # Before a whole class can be done the API need not count classes.
    assert job["rate"], "the GETs were cheaper than those of a running job"
    assert done >= images // job["classes"]["total"], "the GETs counted no classes"
    print(f"{images:,} images in 1,000 classes; PostgreSQL, {POSTS} POSTs, {GETS} GETs, milliseconds")
    print(f"{'':14}{'prompt_api':>12}{'bare':>10}{'ratio':>8}")
    for name, mine, plain in zip(Measured._fields, ours, bare, strict=True):
        print(f"{name:14}{mine * 1000:12.1f}{plain * 1000:10.1f}{mine / plain:8.2f}")
    facts = {
        "images": images,
        "done_at_get": done,
        "seconds": {"prompt_api": ours._asdict(), "bare": bare._asdict()},
        "ratios": {name: round(ours[i] / bare[i], 2) for i, name in enumerate(Measured._fields)},
    }
    write_result("accept_in1k", facts, PACKAGES)


if __name__ == "__main__":
    main()
