"""Shard objects with real bytes, for tests that read them; the images are stand-ins."""

from hashlib import sha256

from shared import leases
from shared.database import Database
from shared.leases import ShardLease, StoredShard
from shared.shards import Sample, class_number, pack
from shared.storage import ObjectStore
from tests.rows import claim


def image_of(class_id: str, slot: int) -> bytes:
    return f"JPEG of {class_id} {slot}".encode() * 40


def sample(lease: ShardLease, slot: int) -> Sample:
    jpeg = image_of(lease.class_id, slot)
    metadata = {"slot": slot, "prompt": f"{lease.class_id}!", "sha256": sha256(jpeg).hexdigest()}
    number = class_number(lease.class_id, lease.class_key)
    return Sample(f"{lease.class_id}_{slot:08d}", slot, jpeg, number, metadata)


def store_shard(store: ObjectStore, lease: ShardLease, short: tuple[int, ...] = ()) -> StoredShard:
    slots = [slot for slot in range(lease.start_slot, lease.stop_slot) if slot not in short]
    data = pack([sample(lease, slot) for slot in slots])
    store.put(lease.object_key, data)
    rejections = {"blank": len(short)} if short else {}
    return StoredShard(lease.object_key, len(data), sha256(data).hexdigest(), len(slots), short, rejections)


def draw_pending(database: Database, store: ObjectStore, *, short: tuple[int, ...] = ()) -> int:
    """Draw whatever is pending; returns how many shards that were."""
    drawn = 0
    while claimed := claim(database, limit=100):
        for lease in claimed:
            with database.write() as session:
                leases.commit(session, lease, store_shard(store, lease, short))
            drawn += 1
    return drawn
