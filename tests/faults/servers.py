"""Servers that crash and links that break: Redis, PostgreSQL and S3."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from .cluster import Links
from .parts import Part
from .proxy import GOOD, SLOW_DOWN, Cut, Hold, Link, Proxy
from .scene import Fault, Scene
from .three_bells import RUNG

Choose = Callable[[Links], Proxy]
COMMIT = b"COMMIT\0"
# A database away for longer than a lease costs every worker its leases: eight that wait for upload, four in hand.
ALL_HELD = 3 * 12


@contextmanager
def broken(proxy: Proxy, link: Link) -> Iterator[None]:
    proxy.link = link
    try:
        yield
    finally:
        proxy.link = GOOD


def break_link(scene: Scene, *, choose: Choose, link: Link, seconds: float) -> None:
    scene.draw_on()
    with broken(choose(scene.cluster.links), link):
        time.sleep(seconds)
    scene.blow()


def break_doorbell(scene: Scene, *, link: Link, seconds: float) -> None:
    """The work arrives while nobody can be woken."""
    with broken(scene.cluster.links.redis, link):
        scene.begin()
        time.sleep(seconds)
    scene.blow()


def crash_redis(scene: Scene) -> None:
    """What it held is gone: it keeps nothing on disk here."""
    scene.cluster.redis.crash()
    scene.begin()
    time.sleep(3)
    scene.cluster.redis.start()
    scene.blow()


def empty_redis(scene: Scene) -> None:
    """As fast as it can, so that doorbells are lost between their ringing and their hearing."""
    scene.begin()
    until = time.monotonic() + 3
    while time.monotonic() < until:
        scene.cluster.redis.flush()
        time.sleep(0.01)
    scene.blow()


def ring_three_times(scene: Scene) -> None:
    """Every message is there three times: the dispatchers ring each bell so."""
    dispatchers = [part for name, part in scene.cluster.orchestrator.parts.items() if name.startswith("dispatcher")]
    with another_module(dispatchers, "tests.faults.three_bells"):
        before = sum(part.log.read_text().count(RUNG) for part in dispatchers)
        scene.begin()
        scene.blow()
        scene.cluster.user.ended(scene.job_id, seconds=60)
        rung = sum(part.log.read_text().count(RUNG) for part in dispatchers) - before
    scene.expect(rung > 0, "no bell was rung three times")


@contextmanager
def another_module(parts: list[Part], module: str) -> Iterator[None]:
    """These parts run it in place of their own."""
    own = [part.command for part in parts]
    for part in parts:
        part.command = [*part.command[:-1], module]
        part.restart()
    try:
        yield
    finally:
        for part, command in zip(parts, own, strict=True):
            part.command = command
            part.restart()


def crash_postgres(scene: Scene) -> None:
    scene.draw_on()
    scene.cluster.postgres.crash()
    time.sleep(2)
    scene.cluster.postgres.start()
    scene.blow()


def crash_postgres_at_commit(scene: Scene) -> None:
    """It has been told to COMMIT and crashes before it can say whether it did; some are durable, some are not."""
    proxy = scene.cluster.links.postgres
    for _ in range(3):
        scene.draw_on(8)
        proxy.hold = Hold(COMMIT)
        scene.expect(proxy.hold.struck.wait(30), "no COMMIT passed")
        time.sleep(scene.random.uniform(0, 0.01))
        scene.cluster.postgres.crash()
        proxy.hold = None
        scene.cluster.postgres.start()
        scene.blow()


def cut_commits(scene: Scene, *, is_delivered: bool) -> None:
    """Whether a COMMIT got through is something its sender cannot know."""
    scene.draw_on(8)
    cut = Cut(COMMIT, every=5, is_delivered=is_delivered)
    scene.cluster.links.postgres.cut = cut
    scene.draw_on(scene.images // 2)
    scene.cluster.links.postgres.cut = None
    for _ in range(cut.hits):
        scene.blow()
    scene.expect(cut.hits > 3, f"only {cut.hits} COMMITs were cut")


def to_postgres(links: Links) -> Proxy:
    return links.postgres


def to_s3(links: Links) -> Proxy:
    return links.s3


REDIS = (
    Fault("Redis killed and emptied", crash_redis, begins_itself=True),
    Fault("Redis emptied by FLUSHALL", empty_redis, begins_itself=True),
    Fault(
        "Redis link silent for 8 s",
        partial(break_doorbell, link=Link(is_silent=True), seconds=8),
        begins_itself=True,
    ),
    Fault("Redis link reset", partial(break_doorbell, link=Link(is_reset=True), seconds=3), begins_itself=True),
    Fault("each doorbell rung three times", ring_three_times, begins_itself=True),
)
POSTGRES = (
    Fault("PostgreSQL crashed and restarted", crash_postgres, most_wasted=ALL_HELD),
    Fault("PostgreSQL crashed at a COMMIT", crash_postgres_at_commit, most_wasted=3 * ALL_HELD),
    Fault(
        "PostgreSQL link reset",
        partial(break_link, choose=to_postgres, link=Link(is_reset=True), seconds=2),
        most_wasted=ALL_HELD,
    ),
    Fault(
        "PostgreSQL link silent for 8 s",
        partial(break_link, choose=to_postgres, link=Link(is_silent=True), seconds=8),
        most_wasted=ALL_HELD,
    ),
    Fault("connection cut before a COMMIT arrives", partial(cut_commits, is_delivered=False), most_wasted=ALL_HELD),
    Fault("connection cut before a COMMIT's answer", partial(cut_commits, is_delivered=True), most_wasted=ALL_HELD),
)
S3 = tuple(
    Fault(name, partial(break_link, choose=to_s3, link=link, seconds=seconds), most_wasted=0)
    for name, link, seconds in (
        ("S3 answers 503", Link(answer=SLOW_DOWN), 4),
        ("S3 link reset", Link(is_reset=True), 3),
        ("S3 uploads cut short", Link(most_bytes=9000), 3),
        ("S3 link silent for 8 s", Link(is_silent=True), 8),
    )
)
FAULTS = (*REDIS, *POSTGRES, *S3)
