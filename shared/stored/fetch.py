"""Shards as files of the cache. What is damaged is made again, and whoever reads it waits for that."""

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared import leases
from shared.database import Database
from shared.errors import AppError, BeingRedrawn, CorruptObject, NotFound, Unavailable
from shared.inspection import damage_of
from shared.storage import ObjectStore, get_verified
from shared.tables import Shard

from .cache import ShardCache
from .manifest import ManifestShard

logger = logging.getLogger(__name__)
# As `ShardLease.object_key` makes it.
PLACE = re.compile(r"images/(?P<recipe>[^/]+)/(?P<class_key>[^/]+)/(?P<start>\d+)-\d+-\d+\.tar")


def never_stop() -> None:
    """The check of a fetch that nobody stops."""


def fetch_shards(
    shards: Sequence[ManifestShard],
    *,
    database: Database,
    store: ObjectStore,
    cache: ShardCache,
    check: Callable[[], None] = never_stop,
) -> list[Path]:
    """Reports every damaged shard before the first one raises: they are drawn again together.

    `check` is called before every shard, and may raise to stop.
    """
    cache.hold(shards)
    files, problems = [], []
    for shard in shards:
        check()
        try:
            files.append(fetch_shard(store, shard, cache))
        except (CorruptObject, NotFound):
            problems.append(shard_damaged(database, store, shard.key, shard.sha256))
    if problems:
        # What nobody can draw again ends the job at once; the rest is worth waiting for.
        raise min(problems, key=lambda problem: not isinstance(problem, CorruptObject))
    return files


def fetch_shard(store: ObjectStore, shard: ManifestShard, cache: ShardCache) -> Path:
    return cache.get(shard, partial(get_verified, store, shard.key, shard.sha256))


def shard_damaged(database: Database, store: ObjectStore, key: str, sha256: str) -> AppError:
    """Have a shard drawn again that could not be read; CorruptObject only when nobody can draw it any more."""
    damage = damage_of(store, key, sha256=sha256)
    if damage is None:
        return Unavailable(f"object {key} was read differently twice; check the object store")
    with database.write() as session:
        is_first = leases.report_damage(session, object_key=key, reason=damage)
        state = state_at(session, key)
    logger.error("damaged shard", extra={"key": key, "reason": damage, "reported": is_first, "state": state})
    if state in (None, "failed"):
        return CorruptObject(f"object {key} is damaged ({damage}) and cannot be drawn again; name another dataset")
    return BeingRedrawn(f"object {key} is damaged ({damage}) and is being drawn again")


def state_at(session: Session, key: str) -> str | None:
    """The state of the shard whose object this is or was: once redrawn, its row names another object."""
    place = PLACE.fullmatch(key)
    if place is None:
        return None
    return session.scalar(
        select(Shard.state).where(
            Shard.recipe_digest == place["recipe"],
            Shard.class_key == place["class_key"],
            Shard.start_slot == int(place["start"]),
        )
    )
