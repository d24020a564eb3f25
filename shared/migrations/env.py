"""Alembic's entry: always over a connection that `shared.schema` opened."""

from alembic import context

from shared.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
