"""Whether a stored object is still the one that was committed, and what to do about a manifest that is not.

Damaged shards are reported to `leases.report_damage`.
"""

import hashlib

from sqlalchemy.orm import Session

from .errors import NotFound
from .storage import ObjectStore
from .tables import Job


def damage_of(store: ObjectStore, key: str, *, sha256: str) -> str | None:
    """What is wrong with the object, or None.

    A second look must agree with the first: drawing an object again costs far more than reading it twice.
    """
    return look(store, key, sha256) and look(store, key, sha256)


def look(store: ObjectStore, key: str, sha256: str) -> str | None:
    try:
        data = store.get(key)
    except NotFound:
        return "it is gone from the store"
    found = hashlib.sha256(data).hexdigest()
    return None if found == sha256 else f"its {len(data)} bytes have sha256 {found}, committed was {sha256}"


def report_manifest(session: Session, job_id: str, *, manifest_key: str) -> bool:
    """Have the dispatcher write a damaged manifest again; False when another one took its place meanwhile."""
    job = session.get_one(Job, job_id, with_for_update=True)
    if job.is_manifest_stale or job.result is None or job.result["manifest_key"] != manifest_key:
        return False
    job.is_manifest_stale = True
    return True
