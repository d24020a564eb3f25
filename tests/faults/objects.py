"""Objects that go bad after they were committed: found by a verification, drawn again, the manifest mended."""

from sqlalchemy import func, select

from shared.tables import DatasetShard, Job, Shard
from tests.processes import wait_until

from .scene import Fault, Scene


def spoil(scene: Scene) -> None:
    """One object gone, one with a flipped byte, one cut short; then somebody asks for a verification."""
    scene.cluster.user.ended(scene.job_id, seconds=60)
    store = scene.cluster.store
    gone, flipped, short = object_keys(scene)[::9][:3]
    store.delete(gone)
    data = bytearray(store.get(flipped))
    data[len(data) // 2] ^= 1
    store.put(flipped, bytes(data))
    store.put(short, store.get(short)[:-1024])
    for _ in range(3):
        scene.blow()
    scene.cluster.user.post(f"/datasets/{scene.job_id}/verify")
    wait_until(lambda: is_mended(scene) or None, seconds=60, what="the repair")
    changed = set(object_keys(scene)) & {gone, flipped, short}
    scene.expect(not changed, f"{sorted(changed)} are still named although they are damaged")


def object_keys(scene: Scene) -> list[str]:
    query = select(Shard.object_key).join(DatasetShard, DatasetShard.shard_id == Shard.id)
    with scene.cluster.database.read() as session:
        found = session.scalars(query.where(DatasetShard.job_id == scene.job_id).order_by(Shard.id)).all()
    return [str(key) for key in found]


def is_mended(scene: Scene) -> bool:
    open_shards = (
        select(func.count())
        .select_from(Shard)
        .join(DatasetShard, DatasetShard.shard_id == Shard.id)
        .where(DatasetShard.job_id == scene.job_id, Shard.state != "done")
    )
    with scene.cluster.database.read() as session:
        job = session.get_one(Job, scene.job_id)
        waits = job.verify_asked_at is not None or job.is_manifest_stale
        return not waits and session.scalar(open_shards) == 0


FAULTS = (Fault("objects deleted, flipped, cut short", spoil),)
