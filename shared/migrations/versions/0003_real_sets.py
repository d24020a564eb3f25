"""Registered sets of real images"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.tables import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")


def upgrade() -> None:
    op.create_table(
        "real_sets",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=True),
        sa.Column("layout", sa.String(), nullable=True),
        sa.Column("location", sa.String(), nullable=False),
        sa.Column("class_ids", JSON, nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("test_images", sa.Integer(), nullable=True),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("crop_pct", sa.Double(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("role IN ('train', 'test', 'transfer')", name=op.f("ck_real_sets_role_known")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_real_sets")),
    )


def downgrade() -> None:
    op.drop_table("real_sets")
