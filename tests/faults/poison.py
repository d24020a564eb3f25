"""Classes that cannot be drawn: they fail alone, after exactly the allowed attempts, and say why."""

from functools import partial

from sqlalchemy import select

from shared.tables import DatasetShard, Shard

from .cluster import MOST_ATTEMPTS
from .model import KILLS, RAISES
from .scene import THINGS, Fault, Scene, nothing

GOOD_CLASSES = THINGS[:4]


def failed_alone(scene: Scene, *, reason: str) -> None:
    scene.blow()
    with scene.cluster.database.read() as session:
        shards = session.scalars(
            select(Shard)
            .join(DatasetShard, DatasetShard.shard_id == Shard.id)
            .where(DatasetShard.job_id == scene.job_id)
            .order_by(Shard.id)
        ).all()
    failed = [(shard.attempts, reason in str(shard.error)) for shard in shards if shard.state == "failed"]
    innocent = [shard for shard in shards if shard.state == "failed" and "poison" not in shard.class_key]
    scene.expect(failed == [(MOST_ATTEMPTS, True)], f"failed shards (attempts, with the reason): {failed}")
    scene.expect(not innocent, f"{len(innocent)} shards failed beside the poisonous one")


def poison(name: str, word: str, reason: str) -> Fault:
    return Fault(
        name,
        nothing,  # the class itself is the fault
        after=partial(failed_alone, reason=reason),
        classes=(*GOOD_CLASSES, f"poison that {word}"),
        images_per_class=8,
        state="partial",
        most_wasted=4 * MOST_ATTEMPTS,
        most_seconds=float("inf"),
        lasts=True,
    )


FAULTS = (
    poison("a class that raises", RAISES, "this class cannot be drawn"),
    poison("a class that kills its process", KILLS, "lost with its worker"),
)
