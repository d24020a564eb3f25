"""The engine and its two kinds of transaction, alike on SQLite and PostgreSQL."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import InternalError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

# An unreachable or stuck server must become an error within seconds, never a hung worker.
POSTGRES_OPTIONS = "-c statement_timeout=30000 -c idle_in_transaction_session_timeout=60000 -c lock_timeout=10000"
DISPATCHER_LOCK = 0x5C10_0E01
# Not reachable, or reachable but read-only after a fail-over: both pass by waiting.
DATABASE_AWAY = (OperationalError, InternalError)


class Database:
    """One engine; create it in the process that uses it."""

    def __init__(self, url: str) -> None:
        self.engine = create_sqlite(url) if make_url(url).get_backend_name() == "sqlite" else create_postgres(url)

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction, committed at the end. On SQLite it takes the write lock at once (BEGIN IMMEDIATE)."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent snapshot; never blocks writers."""
        with self.engine.connect().execution_options(sqlite_begin="DEFERRED") as connection:
            with Session(connection, expire_on_commit=False) as session:
                yield session
            connection.rollback()

    @contextmanager
    def leadership(self) -> Iterator[bool]:
        """True in one process at a time (PostgreSQL advisory lock); SQLite has one dispatcher by construction."""
        if self.is_sqlite:
            yield True
            return
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            won = bool(connection.scalar(select(func.pg_try_advisory_lock(DISPATCHER_LOCK))))
            try:
                yield won
            finally:
                if won:
                    connection.execute(select(func.pg_advisory_unlock(DISPATCHER_LOCK)))


def database_now(session: Session) -> datetime:
    """The database's clock: lease arithmetic never trusts a worker's."""
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)  # one machine, one clock
    now = session.scalar(select(func.clock_timestamp()))
    assert isinstance(now, datetime)
    return now


def create_sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver must not start transactions by itself
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that turns into a writer fails at once with "database is locked".
        mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def create_postgres(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(
        parsed,
        pool_pre_ping=True,
        pool_recycle=1800,
        pool_size=10,
        connect_args={"connect_timeout": 5, "tcp_user_timeout": 15000, "options": POSTGRES_OPTIONS},
    )
