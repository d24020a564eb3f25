"""Processes that are killed, stopped, told to go, or given another clock."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import select, text

from shared.database import DISPATCHER_LOCK, LEADER_SILENT_SECONDS
from shared.tables import Worker
from tests.processes import wait_until

from .cluster import DRAWING_SECONDS, LEASE_SECONDS, TICK_SECONDS, Cluster
from .parts import Part
from .proxy import Link
from .scene import RECLAIM_SECONDS, Fault, Scene
from .servers import broken

REFUSED_COMMIT = "fenced out"
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def kill_worker(scene: Scene) -> None:
    for _ in range(2):
        scene.draw_on()
        worker = scene.cluster.busy_worker()
        part, held = scene.cluster.workers()[worker], scene.cluster.held(worker)
        part.kill()
        scene.blow(*held)


def kill_pool_child(scene: Scene) -> None:
    scene.draw_on()
    worker = scene.cluster.busy_worker()
    child, held = scene.cluster.child_pid(worker), scene.cluster.held(worker)
    os.kill(child, signal.SIGKILL)
    scene.blow(*held)


def ask_worker_to_go(scene: Scene, *, images: int = 24) -> None:
    scene.draw_on(images)
    worker = scene.cluster.busy_worker()
    part = scene.cluster.workers()[worker]
    code = part.terminate()
    scene.expect(code == 0, f"{part.name} ended with {code} when asked to go")
    left = scene.cluster.held(worker)
    scene.expect(not left, f"{part.name} went and kept the leases of {left}")
    scene.blow()


def deploy(scene: Scene) -> None:
    """Worker after worker is replaced."""
    for _ in range(4):
        ask_worker_to_go(scene, images=16)
        scene.cluster.wait_for_workers(2)


def wake_a_zombie(scene: Scene) -> None:
    """Stopped with uploads under way, it wakes up to commit what is no longer its own."""
    scene.draw_on()
    cluster = scene.cluster
    with broken(cluster.links.s3, Link(is_silent=True)):
        time.sleep(4 * DRAWING_SECONDS)
        worker = cluster.busy_worker()
        part, held = cluster.workers()[worker], cluster.held(worker)
        part.signal(signal.SIGSTOP)
    scene.blow(*held)
    time.sleep(LEASE_SECONDS + 3 * TICK_SECONDS)
    refused = part.log.read_text().count(REFUSED_COMMIT)
    part.signal(signal.SIGCONT)
    cluster.user.ended(scene.job_id, seconds=60)
    time.sleep(2)
    late = part.log.read_text().count(REFUSED_COMMIT) - refused
    scene.expect(late > 0, "no late commit was refused")


def dispatchers(cluster: Cluster) -> list[Part]:
    return [part for name, part in cluster.orchestrator.parts.items() if name.startswith("dispatcher")]


def kill_dispatchers(scene: Scene) -> None:
    for turn in range(4):
        time.sleep(scene.random.uniform(0, 2 * TICK_SECONDS))
        dispatchers(scene.cluster)[turn % 2].kill()
        scene.blow()
        if turn == 1:
            scene.begin()


def stop_leader(scene: Scene) -> None:
    """A leader that hangs in the middle of a tick loses the lead to the other."""
    leader = wait_until(lambda: stopped_leader(scene.cluster), seconds=60, what="a dispatcher stopped while it led")
    scene.blow()
    scene.begin()
    scene.cluster.user.ended(scene.job_id, seconds=90)
    leader.signal(signal.SIGCONT)


def stopped_leader(cluster: Cluster) -> Part | None:
    """Stops a dispatcher while a tick is under way; lets it go on unless it turns out to be the one that led."""
    for part in dispatchers(cluster):
        with cluster.database.write() as session:
            session.execute(text("LOCK TABLE shards IN EXCLUSIVE MODE"))  # so that the tick waits in its middle
            wait_until(lambda: is_led(cluster), seconds=20, what="a tick that waits for the table")
            part.signal(signal.SIGSTOP)
        time.sleep(3 * TICK_SECONDS)  # the other one's tick, if it leads, ends meanwhile
        if is_led(cluster):
            return part
        part.signal(signal.SIGCONT)
    return None


def is_led(cluster: Cluster) -> bool:
    query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = :lock")
    with cluster.database.read() as session:
        return bool(session.scalar(query, {"lock": DISPATCHER_LOCK % 2**32}))


@contextmanager
def another_clock(parts: list[Part], by: str) -> Iterator[None]:
    for part in parts:
        with_clock(part, by)
    try:
        yield
    finally:
        for part in parts:
            with_clock(part, "")


def skew(scene: Scene, *, kind: str, by: str) -> None:
    """Another clock in every process of a kind: leases are the database's business, so nothing may change."""
    cluster = scene.cluster
    with another_clock([part for name, part in cluster.orchestrator.parts.items() if name.startswith(kind)], by):
        cluster.wait_for_workers(len(generators(cluster)))
        scene.begin()
        scene.blow()
        cluster.user.ended(scene.job_id, seconds=40)


def skew_one(scene: Scene, *, by: str) -> None:
    """The S3 server refuses a worker whose clock is wrong: it says so and uses up no attempt, others go on."""
    cluster, part = scene.cluster, scene.cluster.part("worker-0")
    with another_clock([part], by):
        cluster.wait_for_workers(len(generators(cluster)))
        scene.begin()
        scene.blow()
        told = wait_until(lambda: problem_of(cluster, part), seconds=40, what="a worker that tells its problem")
        scene.expect("clock" in told, f"a worker with a wrong clock says: {told}")
        cluster.user.ended(scene.job_id, seconds=40)


def generators(cluster: Cluster) -> list[Part]:
    return [part for name, part in cluster.orchestrator.parts.items() if name.startswith("worker")]


def problem_of(cluster: Cluster, part: Part) -> str | None:
    mine = [worker for worker, owner in cluster.workers().items() if owner is part]
    with cluster.database.read() as session:
        return session.scalar(select(Worker.problem).where(Worker.id.in_(mine), Worker.problem.is_not(None)))


def with_clock(part: Part, by: str) -> None:
    """Only what asks for the time is lied to: with other file times Python would compile every module anew."""
    assert FAKETIME is not None
    lie = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    part.restart(**(lie if by else dict.fromkeys(lie, "")))


KILLED = (
    Fault("kill -9 of a worker", kill_worker, most_seconds=RECLAIM_SECONDS),
    Fault("kill -9 of a worker's pool child", kill_pool_child, most_seconds=RECLAIM_SECONDS),
    Fault("kill -9 of dispatchers", kill_dispatchers, begins_itself=True),
)
TOLD_TO_GO = (
    Fault("SIGTERM to a worker", ask_worker_to_go, burns_attempts=False),
    Fault("SIGTERM to worker after worker", deploy, burns_attempts=False, images_per_class=128, most_wasted=24),
)
STOPPED = (
    Fault("SIGSTOP of a worker beyond its lease", wake_a_zombie, most_seconds=RECLAIM_SECONDS),
    Fault(
        "SIGSTOP of the leading dispatcher",
        stop_leader,
        begins_itself=True,
        most_seconds=LEADER_SILENT_SECONDS + TICK_SECONDS,
    ),
)
CLOCKS = tuple(
    Fault(f"clock of the {kind}s {by[:3]}", partial(skew, kind=kind, by=by), begins_itself=True, most_seconds=30)
    for kind in ("worker", "dispatcher")
    for by in ("+1h", "-1h")
)
REFUSED = (
    Fault(
        "clock of one worker +1h, S3 refuses it",
        partial(skew_one, by="+1h"),
        begins_itself=True,
        burns_attempts=False,
        most_seconds=30,
    ),
)
FAULTS = (*KILLED, *TOLD_TO_GO, *STOPPED)
