"""One schema history for SQLite and PostgreSQL."""
