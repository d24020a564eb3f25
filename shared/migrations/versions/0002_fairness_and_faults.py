"""Fair claiming, limits, budgets, redrawn shards, webhooks"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.errors import ConfigurationError
from shared.tables import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
PENDING, DAMAGED = sa.text("state = 'pending'"), sa.text("damage IS NOT NULL")
UNDELIVERED = sa.text("delivered_at IS NULL AND failed_at IS NULL")
SILENT = timedelta(seconds=30)


def new_columns() -> dict[str, Sequence[sa.Column[object]]]:
    """Each has a default or may be null, so that an API of the version before can still write its rows."""
    return {
        "teams": [
            sa.Column("weight", sa.Integer(), server_default="1", nullable=False),
            sa.Column("max_live_jobs", sa.Integer(), nullable=True),
            sa.Column("max_images", BIG, nullable=True),
            sa.Column("max_leased_shards", sa.Integer(), nullable=True),
            sa.Column("max_stored_bytes", BIG, nullable=True),
            sa.Column("served_from", sa.Double(), server_default="0", nullable=False),
            sa.Column("served_until", sa.Double(), server_default="0", nullable=False),
        ],
        "api_keys": [
            sa.Column("name", sa.String(), server_default="", nullable=False),
            sa.Column("scopes", JSON, server_default='["read", "write"]', nullable=False),
            sa.Column("expires_at", UtcDateTime(), nullable=True),
            sa.Column("last_used_at", UtcDateTime(), nullable=True),
        ],
        "jobs": [
            sa.Column("claimed_at", UtcDateTime(), nullable=True),
            sa.Column("deadline", UtcDateTime(), nullable=True),
            sa.Column("budget_images", BIG, nullable=True),
            sa.Column("budget_seconds", sa.Double(), nullable=True),
            sa.Column("stop_reason", sa.String(), nullable=True),
            sa.Column("planned_images", BIG, server_default="0", nullable=False),
            sa.Column("drawn_images", BIG, server_default="0", nullable=False),
            sa.Column("stored_bytes", BIG, server_default="0", nullable=False),
            sa.Column("spent_seconds", sa.Double(), server_default="0", nullable=False),
            sa.Column("verify_asked_at", UtcDateTime(), nullable=True),
            sa.Column("is_manifest_stale", sa.Boolean(), server_default=sa.false(), nullable=False),
        ],
        "shards": [
            sa.Column("drawn_for", sa.String(), nullable=True),
            sa.Column("checked_at", UtcDateTime(), nullable=True),
            sa.Column("damage", sa.String(), nullable=True),
        ],
        "dataset_shards": [
            sa.Column("counted_done", sa.Integer(), server_default="0", nullable=False),
            sa.Column("counted_failed", sa.Integer(), server_default="0", nullable=False),
        ],
        "workers": [sa.Column("problem", sa.String(), nullable=True)],
    }


def upgrade() -> None:
    refuse_beside_workers()
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL statement_timeout = 0")  # counting the links of a large installation takes a while
        op.execute("LOCK TABLE shards, dataset_shards, dataset_classes, jobs, teams, api_keys IN ACCESS EXCLUSIVE MODE")
    for table, columns in new_columns().items():
        for column in columns:
            op.add_column(table, column)
    op.create_index("ix_idempotency_keys_created", "idempotency_keys", ["created_at"])
    index_pending("recipe_digest", "start_slot", "id")
    op.create_index("ix_shards_damaged", "shards", ["id"], sqlite_where=DAMAGED, postgresql_where=DAMAGED)
    stale = sa.text("is_manifest_stale")
    op.create_index(
        "ix_jobs_stale", "jobs", ["id"], sqlite_where=sa.text("is_manifest_stale = 1"), postgresql_where=stale
    )
    asked = sa.text("verify_asked_at IS NOT NULL")
    op.create_index("ix_jobs_verifying", "jobs", ["verify_asked_at"], sqlite_where=asked, postgresql_where=asked)
    create_webhooks()
    count_links()


def index_pending(*columns: str) -> None:
    op.drop_index("ix_shards_pending", "shards")
    op.create_index("ix_shards_pending", "shards", columns, sqlite_where=PENDING, postgresql_where=PENDING)


def refuse_beside_workers() -> None:
    """Workers of the version before would count shards without noting it in the links, and they would count again."""
    workers = sa.table("workers", sa.column("id"), sa.column("seen_at", UtcDateTime()))
    recent = sa.select(sa.func.count()).select_from(workers).where(workers.c.seen_at > datetime.now(UTC) - SILENT)
    if live := op.get_bind().scalar(recent):
        raise ConfigurationError(
            f"{live} workers of the version before are alive; stop them and the dispatcher, wait {SILENT.seconds} s, "
            "and migrate again: this one upgrade cannot be made beside them"
        )


def create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("team_id", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("disabled_at", UtcDateTime(), nullable=True),
        sa.Column("disabled_reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_webhooks_team_id_teams")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_team", "webhooks", ["team_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("webhook_id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", UtcDateTime(), nullable=False),
        sa.Column("delivered_at", UtcDateTime(), nullable=True),
        sa.Column("failed_at", UtcDateTime(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_webhook_deliveries_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_webhook_deliveries_webhook_id_webhooks"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.UniqueConstraint("webhook_id", "job_id", "type", name=op.f("uq_webhook_deliveries_webhook_id_job_id_type")),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["next_at"],
        sqlite_where=UNDELIVERED,
        postgresql_where=UNDELIVERED,
    )


def count_links() -> None:
    """What the links to ended shards had added to their datasets before that was written down."""
    links = sa.table(
        "dataset_shards",
        *map(sa.column, ("job_id", "shard_id", "take", "counted_done", "counted_failed")),
    )
    shards = sa.table("shards", *map(sa.column, ("id", "state", "start_slot")), sa.column("short_slots", JSON))
    in_state = {
        state: links.c.shard_id.in_(sa.select(shards.c.id).where(shards.c.state == state))
        for state in ("done", "failed")
    }
    op.execute(links.update().where(in_state["done"]).values(counted_done=links.c.take))
    op.execute(links.update().where(in_state["failed"]).values(counted_failed=links.c.take))
    bind = op.get_bind()
    lacking = (
        sa.select(links.c.job_id, links.c.shard_id, links.c.take, shards.c.start_slot, shards.c.short_slots)
        .join_from(links, shards, shards.c.id == links.c.shard_id)
        .where(shards.c.state == "done", sa.cast(shards.c.short_slots, sa.String) != "[]")
    )
    for job_id, shard_id, take, start, short_slots in bind.execute(lacking).all():
        short = sum(slot < start + take for slot in short_slots)
        link = sa.and_(links.c.job_id == job_id, links.c.shard_id == shard_id)
        bind.execute(links.update().where(link).values(counted_done=take - short, counted_failed=short))


def downgrade() -> None:
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
    op.drop_index("ix_idempotency_keys_created", "idempotency_keys")
    op.drop_index("ix_shards_damaged", "shards")
    op.drop_index("ix_jobs_stale", "jobs")
    op.drop_index("ix_jobs_verifying", "jobs")
    index_pending("id")
    for table, columns in new_columns().items():
        for column in columns:
            op.drop_column(table, column.name)
