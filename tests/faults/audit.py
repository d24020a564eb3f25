"""What really happened to shards, written by the database itself: no process under test can forget to tell."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from shared.database import Database

COLUMNS = "shard_id, was, state, old_fence, fence, owner, old_key, key, damage"
VALUES = (
    "NEW.id, OLD.state, NEW.state, OLD.fence, NEW.fence, NEW.lease_owner, OLD.object_key, NEW.object_key, NEW.damage"
)
TABLE = """
CREATE TABLE audit_shards (
    seq {serial} PRIMARY KEY, at {moment}, shard_id bigint NOT NULL, was text NOT NULL, state text NOT NULL,
    old_fence int NOT NULL, fence int NOT NULL, owner text, old_key text, key text, damage text
)
"""
FUNCTION = f"""
CREATE FUNCTION audit_shard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_shards ({COLUMNS}) VALUES ({VALUES});
    RETURN NULL;
END $$
"""
CHANGED = """
CREATE TRIGGER audit AFTER UPDATE ON shards FOR EACH ROW
WHEN (OLD.state <> NEW.state OR OLD.fence <> NEW.fence
      OR coalesce(OLD.object_key, '') <> coalesce(NEW.object_key, '')
      OR coalesce(OLD.sha256, '') <> coalesce(NEW.sha256, ''))
"""
POSTGRES = (
    TABLE.format(serial="bigserial", moment="timestamptz NOT NULL DEFAULT clock_timestamp()"),
    FUNCTION,
    f"{CHANGED} EXECUTE FUNCTION audit_shard()",
)
SQLITE = (
    TABLE.format(serial="integer", moment="text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'))"),
    f"{CHANGED} BEGIN INSERT INTO audit_shards ({COLUMNS}) VALUES ({VALUES}); END",
)


class Change(NamedTuple):
    """One committed change of a shard row; `at` is the database's clock."""

    at: datetime
    shard_id: int
    was: str
    state: str
    old_fence: int
    fence: int
    owner: str | None
    old_key: str | None
    key: str | None
    damage: str | None

    @property
    def is_claim(self) -> bool:
        return self.state == "leased" and self.was != "leased"

    @property
    def is_commit(self) -> bool:
        return self.state == "done" and self.was != "done"


def install(database: Database) -> None:
    with database.engine.begin() as connection:
        for statement in SQLITE if database.is_sqlite else POSTGRES:
            connection.exec_driver_sql(statement)


def changes(session: Session, job_id: str) -> list[Change]:
    """Everything that happened to the shards of a dataset, oldest first."""
    rows = session.execute(
        text(
            f"SELECT at, {COLUMNS} FROM audit_shards"
            " WHERE shard_id IN (SELECT shard_id FROM dataset_shards WHERE job_id = :job) ORDER BY seq"
        ),
        {"job": job_id},
    )
    return [Change(moment(at), *rest) for at, *rest in rows]


def moment(at: datetime | str) -> datetime:
    return datetime.fromisoformat(at) if isinstance(at, str) else at


def violations(history: list[Change]) -> list[str]:
    """I4: only the holder of the current fence commits, and what it committed changes only after damage was found."""
    return [problem for change in history if (problem := violation(change)) is not None]


def violation(change: Change) -> str | None:
    if change.is_commit and change.was != "leased":
        return f"shard {change.shard_id} went from {change.was} to done"
    if change.is_commit and (change.fence != change.old_fence or not str(change.key).endswith(f"-{change.fence}.tar")):
        return f"shard {change.shard_id} holds {change.key} at fence {change.fence}"
    if change.was == "done" and (change.state != "pending" or change.damage is None):
        return f"finished shard {change.shard_id} became {change.state} with {change.key} without damage"
    return None
