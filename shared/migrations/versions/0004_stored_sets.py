"""Real sets in the object store"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")


def upgrade() -> None:
    op.add_column("real_sets", sa.Column("objects", JSON, nullable=True))


def downgrade() -> None:
    op.drop_column("real_sets", "objects")
