"""What becomes of a training whose input is damaged: the input is made again, and the training waits for it."""

import logging
import re

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared import leases
from shared.database import Database
from shared.errors import AppError, BeingRedrawn, CorruptObject, Unavailable
from shared.inspection import damage_of
from shared.storage import ObjectStore
from shared.tables import Shard

logger = logging.getLogger(__name__)
# As `ShardLease.object_key` makes it.
PLACE = re.compile(r"images/(?P<recipe>[^/]+)/(?P<class_key>[^/]+)/(?P<start>\d+)-\d+-\d+\.tar")


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
        return CorruptObject(f"object {key} is damaged ({damage}) and cannot be drawn again; train on another dataset")
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
