"""One fault on one dataset: what the striking code is given, and what it reports."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple, Self

from .cluster import DRAWING_SECONDS, LEASE_SECONDS, RING_AGAIN_SECONDS, TICK_SECONDS, Cluster, Held

# Of this machine, on which everything shares two cores: reconnecting, a batch under way, a process that starts.
SLACK_SECONDS = 4.0
RECLAIM_SECONDS = LEASE_SECONDS + TICK_SECONDS
LIVE_SECONDS = LEASE_SECONDS + RING_AGAIN_SECONDS + TICK_SECONDS
THINGS = tuple(f"thing {number}" for number in range(5))
# A dataset's images between its start and a fault: three shards.
ENOUGH = 24


class Blow(NamedTuple):
    """When a fault was over, and the claims of the workers it hit."""

    over_at: datetime
    held: tuple[Held, ...] = ()

    @classmethod
    def now(cls, *held: Held) -> Self:
        return cls(datetime.now(UTC), held)


@dataclass
class Scene:
    cluster: Cluster
    request: dict[str, object]
    random: random.Random
    job_id: str = ""
    blows: list[Blow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Further datasets whose shards show that work goes on."""

    @property
    def images(self) -> int:
        """How many it asks for."""
        return int(str(self.request["images_per_class"])) * len(THINGS)

    def draw_another(self) -> None:
        """A small dataset: work goes on after the last blow, however soon the first one ended."""
        request = {"classes": [{"name": "another"}], "images_per_class": 8, "seed": self.random.randrange(2**40)}
        self.others.append(self.cluster.user.submit("/datasets", request))
        self.cluster.user.ended(self.others[-1], seconds=60)

    def begin(self) -> None:
        """Ask for the dataset; what follows happens while it is drawn."""
        self.job_id = self.cluster.user.submit("/datasets", self.request)

    def blow(self, *held: Held) -> None:
        """To be called when a fault ends: now."""
        self.blows.append(Blow.now(*held))

    def expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.problems.append(otherwise)

    def draw_on(self, images: int = ENOUGH) -> None:
        """Wait until so many more images are counted, or all are."""
        cluster, before = self.cluster, self.cluster.user.done(self.job_id)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            job = cluster.user.get(f"/jobs/{self.job_id}")
            if job is not None and (job["terminal"] or job["counts"]["done"] >= before + images):
                return
            time.sleep(DRAWING_SECONDS / 4)


Strike = Callable[[Scene], None]


def nothing(scene: Scene) -> None:
    """No strike."""


class Fault(NamedTuple):
    """`most_wasted` claims may be lost beside those its victims held; `most_seconds` may pass until work goes on.

    Both leave room for a machine that shares two cores between everything: a lease here is five seconds short.
    """

    name: str
    strike: Strike
    after: Strike = nothing
    """Called once the dataset has ended, before it is checked."""
    classes: tuple[str, ...] = THINGS
    images_per_class: int = 64
    state: str = "succeeded"
    most_wasted: int = 6
    most_seconds: float = LIVE_SECONDS
    burns_attempts: bool = True
    """False: no shard may have used up an attempt."""
    request: Mapping[str, object] = MappingProxyType({})
    """What the request has beside its classes and their images."""
    begins_itself: bool = False
    """The strike asks for the dataset, after it has broken something."""
    lasts: bool = False
    """The fault ends with the dataset only: nothing is left to be drawn after it."""
