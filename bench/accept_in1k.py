"""How fast ImageNet-1K at 50x is accepted and its job answers, beside a bare FastAPI application.

`python -m bench.accept_in1k` needs a PostgreSQL server that `createdb` reaches. Both applications run in processes of
their own on the same database and are asked in turns over a socket. Ours then shows two running jobs, one of 1x and
one of 50x, each with half of its shards finished: rate and class counts are worked out for every GET.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
from pydantic import JsonValue
from sqlalchemy import text

from shared.database import Database
from shared.schema import upgrade

from .machine import write_result
from .requests import FIFTY_TIMES, ONCE

ROOT = Path(__file__).parents[1]
POSTS = 40
GETS = 500
LEAST_POST_RATIO = 0.7
MOST_POLL_RATIO = 1.2
PACKAGES = ("fastapi", "uvicorn", "sqlalchemy", "psycopg", "pydantic")

# Half of the 128-slot shards of every class, finished; the rows are those that workers' commits leave.
HALF_DRAWN = """
    CREATE TEMPORARY TABLE half ON COMMIT DROP AS
        SELECT c.position, c.class_key, c.total, n * 128 AS start, least(n * 128 + 128, c.total) AS stop
        FROM dataset_classes c, generate_series(0, c.total / 256 - 1) n WHERE c.job_id = :job;
    WITH made AS (
        INSERT INTO shards (recipe_digest, class_key, start_slot, stop_slot, state, attempts, fence, object_key,
            size_bytes, sha256, accepted, short_slots, rejections, done_at, drawn_for)
        SELECT j.spec ->> 'recipe_digest', h.class_key, h.start, h.stop, 'done', 1, 1,
            h.class_key || '/' || h.start, 1, repeat('0', 64), h.stop - h.start, '[]', '{}', now(), j.id
        FROM half h, jobs j WHERE j.id = :job
        RETURNING id, class_key, start_slot, stop_slot)
    INSERT INTO dataset_shards (job_id, shard_id, position, take, counted_done)
        SELECT :job, m.id, h.position, m.stop_slot - m.start_slot, m.stop_slot - m.start_slot
        FROM made m JOIN half h ON h.class_key = m.class_key AND h.start = m.start_slot;
    UPDATE dataset_classes c SET planned = d.done, done = d.done
        FROM (SELECT position, sum(stop - start) AS done FROM half GROUP BY position) d
        WHERE c.job_id = :job AND c.position = d.position;
    UPDATE jobs SET state = 'running', started_at = now(),
        done = (SELECT sum(done) FROM dataset_classes WHERE job_id = :job) WHERE id = :job;
    INSERT INTO events (job_id, type, payload, at)
        SELECT :job, 'progress', jsonb_build_object('done', n * 128, 'failed', 0), now() + n * interval '1 second'
        FROM generate_series(1, 1000) n;
"""


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


def post(client: httpx2.Client, body: dict[str, JsonValue]) -> tuple[float, str]:
    """Seconds, and where the job is."""
    started = time.perf_counter()
    answer = client.post("/datasets", json=body)
    seconds = time.perf_counter() - started
    assert answer.status_code == 202, answer.text
    return seconds, answer.headers["Location"]


def get(client: httpx2.Client, location: str) -> float:
    started = time.perf_counter()
    assert client.get(location).status_code == 200
    return time.perf_counter() - started


def draw_half(database_url: str, location: str) -> None:
    database = Database(database_url)
    with database.write() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        for statement in filter(str.strip, HALF_DRAWN.split(";\n")):
            session.execute(text(statement), {"job": location.removeprefix("/jobs/")})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    database.engine.dispose()


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    ordered = [round(value * 1000, 3) for value in sorted(seconds)]
    return {"median": statistics.median(ordered), "p99": ordered[int(0.99 * len(ordered))]}


def check_running(job: dict[str, dict[str, int]]) -> int:
    """Images of a job that is as costly to show as one can be."""
    images, done = job["counts"]["total"], job["counts"]["done"]
    assert job["rate"], "the GETs were cheaper than those of a running job"
    # Before a whole class can be done the API need not count classes.
    assert images > done >= images // job["classes"]["total"], "the GETs counted no classes"
    return images


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in ("post", "bare post", "get 50x", "get 1x", "bare get")}
    with (
        temporary_database() as url,
        served("services.prompt_api", url) as ours,
        served("bench.bare_api", url) as bare,
    ):
        # The first of each opens the connection and, in ours, words the classes.
        first, large = post(ours, FIFTY_TIMES)
        bare_first, plain = post(bare, FIFTY_TIMES)
        for _ in range(POSTS):
            times["post"].append(post(ours, FIFTY_TIMES)[0])
            times["bare post"].append(post(bare, FIFTY_TIMES)[0])
        # Another seed, so that the two jobs share no shards.
        small = post(ours, {**ONCE, "seed": 1})[1]
        for location in (small, large):
            draw_half(url, location)
        for _ in range(GETS):
            times["get 50x"].append(get(ours, large))
            times["get 1x"].append(get(ours, small))
            times["bare get"].append(get(bare, plain))
        images = {name: check_running(ours.get(place).json()) for name, place in (("1x", small), ("50x", large))}
    if not report(times, images, {"first post": first, "bare first post": bare_first}):
        sys.exit(1)


def report(times: dict[str, list[float]], images: dict[str, int], firsts: dict[str, float]) -> bool:
    """Whether both limits hold."""
    found = {name: milliseconds(seconds) for name, seconds in times.items()}
    print(f"{images['50x']:,} images in 1,000 classes; PostgreSQL, {POSTS} POSTs, {GETS} GETs, milliseconds")
    for name, measured in found.items():
        print(f"{name:16}" + "".join(f"{kind:>8} {value:8.2f}" for kind, value in measured.items()))
    for name, seconds in firsts.items():
        print(f"{name:16}{seconds * 1000:17.1f}")
    accepted = found["bare post"]["median"] / found["post"]["median"]
    polled = found["get 50x"]["median"] / found["get 1x"]["median"]
    print(f"bare / ours, POST: {accepted:.2f} (at least {LEAST_POST_RATIO})")
    print(f"50x / 1x, GET of a running job: {polled:.2f} (at most {MOST_POLL_RATIO})")
    facts = {
        "images": images,
        "milliseconds": found,
        "first_milliseconds": {name: round(seconds * 1000, 1) for name, seconds in firsts.items()},
        "bare_to_ours_post": round(accepted, 2),
        "polling_50x_to_1x": round(polled, 2),
    }
    write_result("accept_in1k", facts, PACKAGES)
    return accepted >= LEAST_POST_RATIO and polled <= MOST_POLL_RATIO


if __name__ == "__main__":
    main()
