"""Random faults, one after another, while one dataset is drawn: the soak."""

import random
import signal
import time
from collections.abc import Callable
from functools import partial

from .cluster import LEASE_SECONDS, Cluster
from .parts import Part
from .processes import dispatchers, generators
from .proxy import GOOD, SLOW_DOWN, Cut, Link
from .scene import Scene
from .servers import COMMIT

Blow = Callable[[Cluster, random.Random], None]


def kill_one(cluster: Cluster, choice: random.Random, *, of: Callable[[Cluster], list[Part]]) -> None:
    choice.choice(of(cluster)).kill()


def api(cluster: Cluster) -> list[Part]:
    return [cluster.part("api")]


def ask_one_to_go(cluster: Cluster, choice: random.Random) -> None:
    choice.choice(generators(cluster)).process.terminate()


def stop_one(cluster: Cluster, choice: random.Random) -> None:
    part = choice.choice([*generators(cluster), *dispatchers(cluster)])
    part.signal(signal.SIGSTOP)
    time.sleep(choice.uniform(0.5, 1.5) * LEASE_SECONDS)
    part.signal(signal.SIGCONT)


def break_one(cluster: Cluster, choice: random.Random, *, link: Link, most_seconds: float) -> None:
    proxy = choice.choice(cluster.links)
    proxy.link = link
    time.sleep(choice.uniform(0.2, most_seconds))
    proxy.link = GOOD


def refuse(cluster: Cluster, choice: random.Random, *, link: Link) -> None:
    cluster.links.s3.link = link
    time.sleep(choice.uniform(0.5, 3))
    cluster.links.s3.link = GOOD


def crash_redis(cluster: Cluster, choice: random.Random) -> None:
    cluster.redis.crash()
    time.sleep(choice.uniform(0, 2))
    cluster.redis.start()


def crash_postgres(cluster: Cluster, choice: random.Random) -> None:
    cluster.postgres.crash()
    time.sleep(choice.uniform(0, 2))
    cluster.postgres.start()


def cut_commits(cluster: Cluster, choice: random.Random) -> None:
    cluster.links.postgres.cut = Cut(COMMIT, every=choice.randint(2, 6), is_delivered=choice.random() < 0.5)
    time.sleep(choice.uniform(0.5, 2))
    cluster.links.postgres.cut = None


BLOWS: tuple[Blow, ...] = (
    partial(kill_one, of=generators),
    partial(kill_one, of=dispatchers),
    partial(kill_one, of=api),
    ask_one_to_go,
    stop_one,
    partial(break_one, link=Link(is_silent=True), most_seconds=6),
    partial(break_one, link=Link(is_reset=True), most_seconds=2),
    partial(break_one, link=Link(delay_seconds=0.3), most_seconds=3),
    partial(refuse, link=Link(answer=SLOW_DOWN)),
    partial(refuse, link=Link(most_bytes=9000)),
    crash_redis,
    crash_postgres,
    cut_commits,
)


def strike_at_random(scene: Scene, *, pause_seconds: float) -> None:
    """A fault every few seconds until the dataset has ended; the order follows from the seed."""
    while not is_ended(scene):
        time.sleep(scene.random.uniform(0.5, 1) * pause_seconds)
        scene.random.choice(BLOWS)(scene.cluster, scene.random)
        scene.blow()


def is_ended(scene: Scene) -> bool:
    job = scene.cluster.user.get(f"/jobs/{scene.job_id}")
    return job is not None and bool(job["terminal"])
