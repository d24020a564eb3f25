"""What each service may do in PostgreSQL (docs/decisions/0010). The roles are the operator's; `migrate` grants.

Each service logs in as `synthclone_<service>`. Whoever takes one over can do no more than it does anyway: a worker
cannot read keys, the API cannot say which object counts, and nobody but the owner can make keys or raise limits.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, Table, text

from .tables import Base

PREFIX = "synthclone_"
BACKLOG_VIEW = "open_shards"
# FOR UPDATE and FOR KEY SHARE need the right to change some column; the time of creation is one nobody reads.
LOCK = "SELECT, UPDATE (created_at)"

# What changes in a job when it moves on, is held, or is asked to stop.
MOVE = (
    "state, version, error, started_at, finished_at, cancel_requested, lease_owner, lease_until, claimed_at, "
    "spent_seconds"
)
TRAIN = "fence, attempts, total, done, failed, result, checkpoint"
HEARTBEAT = "SELECT, INSERT, UPDATE, DELETE"
# A damaged object is reported by whoever finds it: the shard is drawn again, but nobody says here by which object.
REPORT = "SELECT, UPDATE (state, attempts, damage)"
RUNS_JOBS = {
    "teams": LOCK,
    "jobs": f"SELECT, UPDATE ({MOVE}, {TRAIN}, is_manifest_stale)",
    "job_parents": "SELECT",
    "recipes": "SELECT",
    "dataset_classes": "SELECT",
    "dataset_shards": "SELECT",
    "shards": REPORT,
    "events": "SELECT, INSERT",
    "workers": HEARTBEAT,
    "webhooks": LOCK,
    "webhook_deliveries": "SELECT, INSERT",
    "real_sets": "SELECT",
}

GRANTS: Mapping[str, Mapping[str, str]] = {
    "api": {
        "teams": LOCK,
        "api_keys": "SELECT, UPDATE (last_used_at)",
        "jobs": f"SELECT, INSERT, UPDATE ({MOVE}, deadline, budget_images, budget_seconds, verify_asked_at, "
        "is_manifest_stale)",
        "job_parents": "SELECT, INSERT",
        "recipes": "SELECT, INSERT",
        "dataset_classes": "SELECT, INSERT",
        "dataset_shards": "SELECT",
        "shards": REPORT,
        "events": "SELECT, INSERT",
        "workers": "SELECT",
        "metrics": "SELECT",
        "real_sets": "SELECT",
        "idempotency_keys": "SELECT, INSERT, UPDATE, DELETE",
        "webhooks": "SELECT, INSERT, DELETE, UPDATE (created_at)",
        "webhook_deliveries": "SELECT, INSERT",
    },
    "dispatcher": {
        "teams": LOCK,
        "jobs": (
            f"SELECT, UPDATE ({MOVE}, done, failed, rejected, reused, result, attempts, planned_images, drawn_images, "
            "stored_bytes, stop_reason, verify_asked_at, is_manifest_stale)"
        ),
        "job_parents": "SELECT",
        "recipes": "SELECT",
        "dataset_classes": "SELECT, UPDATE (planned, done, failed, rejected)",
        "dataset_shards": "SELECT, INSERT, UPDATE (counted_done, counted_failed)",
        "shards": (
            "SELECT, INSERT, UPDATE (state, attempts, lease_owner, lease_until, error, damage, checked_at, drawn_for)"
        ),
        "events": "SELECT, INSERT, DELETE",
        "workers": "SELECT, UPDATE (rung_at), DELETE",
        "idempotency_keys": "SELECT, DELETE",
        "webhooks": LOCK,
        "webhook_deliveries": "SELECT, INSERT, DELETE",
    },
    "worker": {
        "teams": "SELECT, UPDATE (served_from, served_until)",
        "jobs": (
            "SELECT, UPDATE (state, version, started_at, done, failed, rejected, reused, planned_images, drawn_images, "
            "stored_bytes, spent_seconds, is_manifest_stale)"
        ),
        "recipes": "SELECT",
        "dataset_classes": "SELECT, UPDATE (done, failed, rejected)",
        "dataset_shards": "SELECT, UPDATE (counted_done, counted_failed)",
        "shards": (
            "SELECT, UPDATE (state, attempts, fence, lease_owner, lease_until, object_key, size_bytes, sha256, "
            "accepted, short_slots, rejections, error, done_at, drawn_for, checked_at, damage)"
        ),
        "events": "SELECT, INSERT",
        "workers": HEARTBEAT,
    },
    "trainer": RUNS_JOBS | {"metrics": "SELECT, INSERT, UPDATE, DELETE"},
    "evaluator": RUNS_JOBS,
    "webhooks": {
        "webhooks": "SELECT, UPDATE (disabled_at, disabled_reason)",
        "webhook_deliveries": "SELECT, UPDATE (attempts, next_at, delivered_at, failed_at, last_error)",
    },
    "keda": {},
}


def grant(connection: Connection, *, prefix: str = PREFIX) -> list[str]:
    """Give every role that exists exactly its rights, in the transaction of the tables' owner; returns their names."""
    create_backlog_view(connection)
    found = [service for service in GRANTS if exists(connection, prefix + service)]
    for service in found:
        role = connection.dialect.identifier_preparer.quote(prefix + service)
        for statement in statements(service, role):
            connection.execute(text(statement))
    return [prefix + service for service in found]


def create_backlog_view(connection: Connection) -> None:
    """All that an autoscaler may see. Leased shards are in it: their workers must not be scaled away."""
    query = "SELECT id, state FROM shards WHERE state IN ('pending', 'leased')"
    connection.execute(text(f"CREATE OR REPLACE VIEW {BACKLOG_VIEW} AS {query}"))


def exists(connection: Connection, role: str) -> bool:
    query = text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)")
    return bool(connection.scalar(query, {"role": role}))


def statements(service: str, role: str) -> list[str]:
    """Everything is taken back first, so that a right that was dropped here is dropped there."""
    rights = GRANTS[service]
    taken = [f"REVOKE ALL ON ALL {kind} IN SCHEMA public FROM {role}" for kind in ("TABLES", "SEQUENCES")]
    given = [f"GRANT {right} ON {table} TO {role}" for table, right in rights.items()]
    given += [
        f"GRANT USAGE ON SEQUENCE {table}_{column} TO {role}"
        for table, right in rights.items()
        if "INSERT" in right and (column := sequence_column(Base.metadata.tables[table]))
    ]
    visible = BACKLOG_VIEW if service == "keda" else "alembic_version"
    return [*taken, *given, f"GRANT SELECT ON {visible} TO {role}", f"GRANT USAGE ON SCHEMA public TO {role}"]


def sequence_column(table: Table) -> str | None:
    """The end of the sequence's name, where the table numbers its rows."""
    column = table.autoincrement_column
    return f"{column.name}_seq" if column is not None else None
