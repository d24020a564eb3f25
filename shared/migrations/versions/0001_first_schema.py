"""First schema"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.tables import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recipes",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column(
            "recipe", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("model", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_recipes")),
    )
    op.create_table(
        "teams",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column(
            "models", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("busy", sa.Boolean(), nullable=False),
        sa.Column("images_per_second", sa.Double(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.Column("rung_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("team_id", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_api_keys_team_id_teams")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_keys_prefix")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("team_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column(
            "spec", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("total", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("done", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("failed", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("rejected", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("reused", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "error", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=True
        ),
        sa.Column(
            "result", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=True
        ),
        sa.Column(
            "checkpoint", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=True
        ),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'queued', 'running', 'succeeded', 'partial', 'failed', 'cancelled')",
            name=op.f("ck_jobs_state_known"),
        ),
        sa.CheckConstraint("done + failed <= total", name=op.f("ck_jobs_counts_within_total")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_jobs_team_id_teams")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(
            "ix_jobs_live",
            ["kind", "state"],
            unique=False,
            sqlite_where=sa.text("state IN ('waiting', 'queued', 'running')"),
            postgresql_where=sa.text("state IN ('waiting', 'queued', 'running')"),
        )
        batch_op.create_index("ix_jobs_team_created", ["team_id", "id"], unique=False)

    op.create_table(
        "shards",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("recipe_digest", sa.String(), nullable=False),
        sa.Column("class_key", sa.String(), nullable=False),
        sa.Column("start_slot", sa.Integer(), nullable=False),
        sa.Column("stop_slot", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("object_key", sa.String(), nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("accepted", sa.Integer(), nullable=True),
        sa.Column(
            "short_slots", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column(
            "rejections", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("done_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("state <> 'done' OR object_key IS NOT NULL", name=op.f("ck_shards_done_has_object")),
        sa.CheckConstraint(
            "state IN ('pending', 'leased', 'done', 'failed', 'dormant')", name=op.f("ck_shards_state_known")
        ),
        sa.CheckConstraint("stop_slot > start_slot", name=op.f("ck_shards_not_empty")),
        sa.ForeignKeyConstraint(["recipe_digest"], ["recipes.digest"], name=op.f("fk_shards_recipe_digest_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shards")),
        sa.UniqueConstraint(
            "recipe_digest", "class_key", "start_slot", name=op.f("uq_shards_recipe_digest_class_key_start_slot")
        ),
    )
    with op.batch_alter_table("shards", schema=None) as batch_op:
        batch_op.create_index(
            "ix_shards_leased",
            ["lease_until"],
            unique=False,
            sqlite_where=sa.text("state = 'leased'"),
            postgresql_where=sa.text("state = 'leased'"),
        )
        batch_op.create_index(
            "ix_shards_pending",
            ["id"],
            unique=False,
            sqlite_where=sa.text("state = 'pending'"),
            postgresql_where=sa.text("state = 'pending'"),
        )

    op.create_table(
        "dataset_classes",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("class_id", sa.String(), nullable=False),
        sa.Column("class_key", sa.String(), nullable=False),
        sa.Column(
            "text", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("planned", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_dataset_classes_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_dataset_classes")),
    )
    with op.batch_alter_table("dataset_classes", schema=None) as batch_op:
        batch_op.create_index("ix_dataset_classes_plan", ["job_id", "planned", "position"], unique=False)

    op.create_table(
        "dataset_shards",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("shard_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("take", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_dataset_shards_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["shard_id"], ["shards.id"], name=op.f("fk_dataset_shards_shard_id_shards")),
        sa.PrimaryKeyConstraint("job_id", "shard_id", name=op.f("pk_dataset_shards")),
    )
    with op.batch_alter_table("dataset_shards", schema=None) as batch_op:
        batch_op.create_index("ix_dataset_shards_shard", ["shard_id"], unique=False)

    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column(
            "payload", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_events_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
    )
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_job", ["job_id", "seq"], unique=False)

    op.create_table(
        "idempotency_keys",
        sa.Column("team_id", sa.String(), nullable=False),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column(
            "body", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_idempotency_keys_job_id_jobs")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_idempotency_keys_team_id_teams")),
        sa.PrimaryKeyConstraint("team_id", "route", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "job_parents",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("parent_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_parents_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["parent_id"], ["jobs.id"], name=op.f("fk_job_parents_parent_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "parent_id", name=op.f("pk_job_parents")),
    )
    with op.batch_alter_table("job_parents", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_job_parents_parent_id"), ["parent_id"], unique=False)

    op.create_table(
        "metrics",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_metrics_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name", "step", name=op.f("pk_metrics")),
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # `migrate` makes it along with the services' rights (shared/roles.py).
        op.execute("DROP VIEW IF EXISTS open_shards")
    op.drop_table("metrics")
    with op.batch_alter_table("job_parents", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_job_parents_parent_id"))

    op.drop_table("job_parents")
    op.drop_table("idempotency_keys")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("ix_events_job")

    op.drop_table("events")
    with op.batch_alter_table("dataset_shards", schema=None) as batch_op:
        batch_op.drop_index("ix_dataset_shards_shard")

    op.drop_table("dataset_shards")
    with op.batch_alter_table("dataset_classes", schema=None) as batch_op:
        batch_op.drop_index("ix_dataset_classes_plan")

    op.drop_table("dataset_classes")
    with op.batch_alter_table("shards", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_shards_pending",
            sqlite_where=sa.text("state = 'pending'"),
            postgresql_where=sa.text("state = 'pending'"),
        )
        batch_op.drop_index(
            "ix_shards_leased", sqlite_where=sa.text("state = 'leased'"), postgresql_where=sa.text("state = 'leased'")
        )

    op.drop_table("shards")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_team_created")
        batch_op.drop_index(
            "ix_jobs_live",
            sqlite_where=sa.text("state IN ('waiting', 'queued', 'running')"),
            postgresql_where=sa.text("state IN ('waiting', 'queued', 'running')"),
        )

    op.drop_table("jobs")
    op.drop_table("api_keys")
    op.drop_table("workers")
    op.drop_table("teams")
    op.drop_table("recipes")
