"""Event streams: a thousand at once, slow ones, refused ones, and ones that outlive their server."""

import asyncio
import random
import resource
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import event

from services.prompt_api.event_hub import EventHub
from services.prompt_api.keys import create_key
from shared import lifecycle
from shared.database import Database
from shared.settings import Settings
from tests.addresses import free_port
from tests.conftest import ServeApi, changed
from tests.processes import Processes, kill, wait_until
from tests.prompt_api.streams import Received, add_events, add_running_job, sequence

STREAMS = 1000


def end(database: Database, job: str, state: str = "succeeded") -> None:
    with database.write() as session:
        assert lifecycle.transition(session, job, state)


async def follow(hub: EventHub, job: str, *, after: int = 0, pause: float = 0) -> list[int]:
    with hub.watching(job) as channel:
        seen = []
        async for told in hub.follow(channel, after):
            seen.append(told.seq)
            await asyncio.sleep(pause)
        return seen


async def follow_from_anywhere(
    database: Database, job: str, *, streams: int, writers: int
) -> list[tuple[int, list[int]]]:
    """Streams that start at random moments and places while threads write; each with where it started."""
    hub, chance = EventHub(database), random.Random(7)

    async def start_late(number: int) -> tuple[int, list[int]]:
        await asyncio.sleep(chance.random() * 1.5)
        after = chance.choice([0, *sequence(database, job)])
        return after, await follow(hub, job, after=after, pause=0.001 * (number % 3))

    running = [asyncio.create_task(start_late(number)) for number in range(streams)]
    writing = [asyncio.to_thread(write_bursts, database, job, seed) for seed in range(writers)]
    await asyncio.gather(*writing)
    await asyncio.to_thread(end, database, job)
    return await asyncio.gather(*running)


def write_bursts(database: Database, job: str, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(12):
        add_events(database, job, chance.choice([1, 1, 2, 5, 130]))
        threading.Event().wait(chance.random() * 0.15)


def test_no_event_is_lost_or_doubled_while_others_write(database: Database) -> None:
    job = add_running_job(database)
    followed = asyncio.run(follow_from_anywhere(database, job, streams=30, writers=4))
    assert [seen for _, seen in followed] == [sequence(database, job, after=after) for after, _ in followed]
    assert len(sequence(database, job)) > 100


def test_a_slow_stream_delays_no_other_and_misses_nothing(database: Database) -> None:
    job = add_running_job(database)

    async def both() -> tuple[bool, list[int], list[int]]:
        hub = EventHub(database)
        slow = asyncio.create_task(follow(hub, job, pause=0.005))
        quick = asyncio.create_task(follow(hub, job))
        await asyncio.sleep(0.2)
        for _ in range(4):
            await asyncio.to_thread(add_events, database, job, 150)
        await asyncio.to_thread(end, database, job)
        first = await quick
        return slow.done(), first, await slow

    slow_was_done, quick, slow = asyncio.run(both())
    assert (slow_was_done, quick, slow) == (False, sequence(database, job), sequence(database, job))


@contextmanager
def counted_queries(database: Database) -> Iterator[list[str]]:
    queries: list[str] = []

    def count(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("SELECT"):
            queries.append(statement)

    event.listen(database.engine, "before_cursor_execute", count)
    yield queries
    event.remove(database.engine, "before_cursor_execute", count)


def queries_of_streams(database: Database, count: int) -> int:
    job = add_running_job(database)

    async def watch() -> None:
        hub = EventHub(database, stream_seconds=2)
        await asyncio.gather(*(follow(hub, job, after=2**40) for _ in range(count)))

    with counted_queries(database) as queries:
        asyncio.run(watch())
    return len(queries)


def test_two_hundred_streams_ask_the_database_no_more_than_one(database: Database) -> None:
    assert queries_of_streams(database, 200) <= queries_of_streams(database, 1) + 2


def test_a_stream_ends_in_time_so_that_its_key_is_looked_at_again(database: Database) -> None:
    job = add_running_job(database)
    hub = EventHub(database, stream_seconds=0.5)
    assert asyncio.run(asyncio.wait_for(follow(hub, job), 10)) == sequence(database, job)


def test_streams_beyond_the_limit_are_refused_until_one_ends(
    serve_api: ServeApi, api_settings: Settings, database: Database
) -> None:
    client, path = serve_api(changed(api_settings, max_streams=2)), f"/jobs/{add_running_job(database)}/events"
    with client.stream("GET", path), ExitStack() as second:
        second.enter_context(client.stream("GET", path))
        refused = client.get(path)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        second.close()
        wait_until(lambda: opens(client, path) or None, seconds=10, what="a free place")


def test_a_refused_stream_takes_no_place(serve_api: ServeApi, api_settings: Settings, database: Database) -> None:
    client = serve_api(changed(api_settings, max_streams=1))
    job = add_running_job(database)
    end(database, job)
    assert [client.get("/jobs/unknown/events").status_code for _ in range(3)] == [404, 404, 404]
    assert opens(client, f"/jobs/{job}/events")


def opens(client: httpx2.Client, path: str) -> bool:
    with client.stream("GET", path) as answer:
        return answer.status_code == 200


def test_one_team_cannot_have_every_stream(
    serve_api: ServeApi, api_settings: Settings, database: Database, pepper: SecretStr
) -> None:
    client = serve_api(changed(api_settings, auth="keys", key_pepper=pepper, max_streams=4))
    with database.write() as session:
        ours, theirs = (create_key(session, team, pepper=pepper) for team in ("ours", "theirs"))
    jobs = {key: make_job(client, key) for key in (ours, theirs)}
    with ExitStack() as streams:
        statuses = [streams.enter_context(open_stream(client, key, jobs[key])) for key in (ours, ours, ours, theirs)]
    assert statuses == [200, 200, 429, 200]


def make_job(client: httpx2.Client, key: str) -> str:
    body = {"classes": "digits", "images_per_class": 2}
    return str(client.post("/datasets", json=body, headers={"Authorization": f"Bearer {key}"}).json()["id"])


@contextmanager
def open_stream(client: httpx2.Client, key: str, job: str) -> Iterator[int]:
    with client.stream("GET", f"/jobs/{job}/events", headers={"Authorization": f"Bearer {key}"}) as answer:
        assert answer.status_code == 200 or answer.headers["Retry-After"] == "30"
        yield answer.status_code


@pytest.fixture
def processes(tmp_path: Path, database_url: str, lexicon_path: Path) -> Iterator[Processes]:
    environment = {
        "SYNTHCLONE_DATABASE_URL": database_url,
        "SYNTHCLONE_DATA_DIR": str(tmp_path),
        "SYNTHCLONE_LEXICON_PATH": str(lexicon_path),
    }
    with Processes(tmp_path, environment) as started:
        yield started


def start_api(processes: Processes, port: int) -> "subprocess.Popen[bytes]":
    process = processes.module("services.prompt_api", SYNTHCLONE_API_PORT=str(port))
    wait_until(lambda: answers(port) or None, seconds=30, what="the API")
    return process


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * STREAMS:
        pytest.skip(f"this machine allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * STREAMS), hard))


async def open_many(port: int, jobs: list[str], database: Database) -> tuple[int, list[Received]]:
    """The status of GET /jobs while a thousand streams are open, and what each got by the end."""
    opened = asyncio.Semaphore(0)
    streams = [asyncio.create_task(Received.of(port, jobs[n % len(jobs)], opened)) for n in range(STREAMS)]
    for _ in streams:
        await opened.acquire()
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        status = (await client.get("/jobs", params={"kind": "dataset"})).status_code
    for job in jobs:
        await asyncio.to_thread(end, database, job)
    return status, await asyncio.gather(*streams)


@pytest.mark.slow
def test_a_thousand_streams_are_told_of_the_end_while_others_are_answered(
    processes: Processes, database: Database, many_files: None
) -> None:
    port = free_port()
    start_api(processes, port)
    jobs = [add_running_job(database) for _ in range(20)]
    status, received = asyncio.run(open_many(port, jobs, database))
    assert status == 200
    assert [stream.ids for stream in received] == [sequence(database, jobs[n % 20]) for n in range(STREAMS)]
    assert {str(stream.last) for stream in received} == {"{'state': 'succeeded'}"}


def read_until_cut(client: httpx2.Client, job: str, ids: list[int]) -> None:
    """Adds the numbers of the events that follow, until the stream ends in whatever way."""
    try:
        with client.stream("GET", f"/jobs/{job}/events", headers={"Last-Event-ID": str(ids[-1])}) as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    ids.append(int(line.removeprefix("id: ")))
    except httpx2.TransportError:
        time.sleep(0.1)


def test_a_stream_resumes_where_a_killed_server_left_it(processes: Processes, database: Database) -> None:
    port, job, ids = free_port(), add_running_job(database), [0]
    process = start_api(processes, port)
    writer = threading.Thread(target=write_bursts, args=(database, job, 1))
    writer.start()
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        threading.Timer(0.5, kill, [process]).start()
        read_until_cut(client, job, ids)
        start_api(processes, port)
        writer.join()
        end(database, job)
        read_until_cut(client, job, ids)
    assert ids[1:] == sequence(database, job)
