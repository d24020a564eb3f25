"""The engine and its two kinds of transaction, alike on SQLite and PostgreSQL."""

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import (
    BindParameter,
    Connection,
    DateTime,
    Engine,
    Float,
    cast,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

# An unreachable or stuck server must become an error within seconds, never a hung worker.
# Compiling a plan (jit) takes longer than any of our statements runs.
POSTGRES_OPTIONS = "-c statement_timeout=30000 -c idle_in_transaction_session_timeout=60000 -c jit=off"
LOCK_SECONDS = 10.0  # the longest wait for a lock
DISPATCHER_LOCK = 0x5C10_0E01
# A leader that does not touch its connection for this long is stopped or gone, and another takes over.
LEADER_SILENT_SECONDS = 15.0
# Shorter than any restart of a server, so that a transaction never begins on a connection of the time before.
PING_AFTER_SECONDS = 0.5
# Not reachable, cut off, reachable but read-only after a fail-over, or too busy for one more: all pass by waiting.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)
logger = logging.getLogger(__name__)


class Database:
    """One engine; create it in the process that uses it."""

    def __init__(self, url: str, *, lock_seconds: float = LOCK_SECONDS) -> None:
        """A statement of PostgreSQL fails once it has waited for another's lock for `lock_seconds`, at most 10."""
        is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine = create_sqlite(url) if is_sqlite else create_postgres(url, lock_seconds)

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
    def leadership(
        self, lock: int = DISPATCHER_LOCK, *, silent_seconds: float = LEADER_SILENT_SECONDS
    ) -> Iterator[bool]:
        """True in one process at a time (PostgreSQL advisory lock); SQLite has one dispatcher by construction.

        The lock belongs to a transaction that lies idle meanwhile, so the server itself ends it when the leader is
        stopped, or busy for longer than `silent_seconds`. Then two may lead: every step must bear that.
        """
        if self.is_sqlite:
            yield True
            return
        with self.engine.connect() as connection:
            limit = f"{int(silent_seconds * 1000)}ms"
            connection.execute(select(func.set_config("idle_in_transaction_session_timeout", limit, True)))
            won = bool(connection.scalar(select(func.pg_try_advisory_xact_lock(lock))))
            if not won:
                connection.rollback()
            try:
                yield won
            finally:
                end_leadership(connection)


def end_leadership(connection: Connection) -> None:
    try:
        connection.rollback()
    except DBAPIError as error:
        logger.warning("leadership was lost meanwhile", extra={"reason": str(error.orig)})
        connection.invalidate()


class clock(FunctionElement[datetime]):
    """The database's clock plus some seconds, inside a statement: `database_now` would be a question of its own."""

    type = DateTime(timezone=True)
    inherit_cache = True

    def __init__(self, seconds: float | BindParameter[float] = 0.0) -> None:
        super().__init__(cast(seconds, Float))


@compiles(clock, "postgresql")
def clock_of_postgres(element: clock, compiler: SQLCompiler, **options: object) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(clock, "sqlite")
def clock_of_sqlite(element: clock, compiler: SQLCompiler, **options: object) -> str:
    # Six digits after the point, as SQLAlchemy writes and reads them.
    seconds = compiler.process(element.clauses, **options)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', ({seconds}) || ' seconds') || '000')"


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


def create_postgres(url: str, lock_seconds: float) -> Engine:
    options = f"{POSTGRES_OPTIONS} -c lock_timeout={int(min(lock_seconds, LOCK_SECONDS) * 1000)}"
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = create_engine(
        parsed,
        pool_recycle=1800,
        pool_size=10,
        connect_args={"connect_timeout": 5, "tcp_user_timeout": 15000, "options": options},
    )
    ping_idle_connections(engine)
    return engine


def ping_idle_connections(engine: Engine) -> None:
    """As `pool_pre_ping`, but not before every transaction: a busy worker's commits would take a tenth longer."""

    @event.listens_for(engine, "checkin")
    def note(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping(connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
        idle_since = record.info.get("idle_since")
        if idle_since is None or time.monotonic() - idle_since < PING_AFTER_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # All connections of the pool are as old as this one; they are made anew.
            raise InvalidatePoolError from error
