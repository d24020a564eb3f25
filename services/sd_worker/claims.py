"""Which shards this worker takes next: a few at a time, and one that may have killed its worker alone."""

import math
import time
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared import leases, tables
from shared.database import Database
from shared.fitness import Fitness
from shared.leases import ShardLease
from shared.settings import Settings
from shared.workers import Presence

from .keeper import LeaseKeeper


class Claims:
    def __init__(
        self,
        settings: Settings,
        database: Database,
        presence: Presence,
        *,
        models: Sequence[str],
        keeper: LeaseKeeper,
        fitness: Fitness,
    ) -> None:
        self._settings, self._database, self._presence = settings, database, presence
        self._models, self._keeper, self._fitness = models, keeper, fitness
        self._until = math.inf
        self._is_alone = False

    def open(self) -> None:
        """From now on, for as long as a worker goes on by the settings."""
        self._until = time.monotonic() + self._settings.drain_seconds

    def claim(self, *, images: int) -> list[ShardLease]:
        """Pending shards of at least so many images, unless this worker has gone on for long enough or cannot store
        what it would draw."""
        is_full_handed = not self._keeper.is_empty
        self._is_alone &= is_full_handed
        if self._is_alone or time.monotonic() > self._until or not self._fitness.is_well():
            return []
        claimed_at = time.monotonic()
        with self._database.write() as session:
            claimed = leases.claim_shards(
                session,
                worker=self._presence.id,
                models=self._models,
                limit=-(-images // self._settings.shard_slots) + 1,
                lease_seconds=self._settings.lease_seconds,
            )
            claimed = self._set_suspects_apart(session, claimed, is_full_handed=is_full_handed)
        self._keeper.add(claimed, claimed_at=claimed_at)
        return claimed

    def _set_suspects_apart(
        self, session: Session, claimed: list[ShardLease], *, is_full_handed: bool
    ) -> list[ShardLease]:
        """A shard that was lost before may have killed its worker: drawn alone it takes no other shard with it."""
        query = select(tables.Shard.id).where(
            tables.Shard.id.in_([lease.shard_id for lease in claimed]), tables.Shard.attempts > 1
        )
        suspects = set(session.scalars(query).all()) if claimed else set()
        if not suspects:
            return claimed
        self._is_alone = True
        if is_full_handed:
            chosen = [lease for lease in claimed if lease.shard_id not in suspects]
        else:
            chosen = [lease for lease in claimed if lease.shard_id in suspects][:1]
        leases.release(session, [lease for lease in claimed if lease not in chosen])
        return chosen
