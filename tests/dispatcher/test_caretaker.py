"""The caretaker thread, in this process and in a real dispatcher."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.dispatcher.caretaker import CARETAKER_LOCK, Caretaker
from services.dispatcher.chores import Chore
from shared.database import Database
from shared.errors import Unavailable
from shared.settings import Settings
from shared.storage import LocalStore
from tests.dispatcher.bucket import OLD_SECONDS, put
from tests.processes import Processes, wait_until
from tests.rows import add_dataset

STRAY = f"images/{'0' * 64}/a-text/00000000-00000128-1.tar"


@pytest.fixture
def settings() -> Settings:
    return Settings(tick_seconds=0.05, lease_seconds=1, stray_seconds=OLD_SECONDS / 2)


@pytest.fixture
def store(tmp_path: Path, database: Database) -> LocalStore:
    """With one stray object, and a database that has had work."""
    with database.write() as session:
        add_dataset(session, images={"a": 1})
    folder = LocalStore(tmp_path / "objects")
    put(folder, STRAY, age_seconds=OLD_SECONDS)
    return folder


def gone(store: LocalStore) -> bool | None:
    return store.size(STRAY) is None or None


def test_the_caretaker_sweeps_and_stops_when_told(database: Database, store: LocalStore, settings: Settings) -> None:
    stop = threading.Event()
    caretaker = Caretaker(database, store, settings, stop)
    caretaker.start()
    wait_until(lambda: gone(store), seconds=30, what="the sweep")
    assert not caretaker.has_died
    stop.set()
    caretaker.end()
    assert "caretaker" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.postgres
def test_only_the_replica_with_the_lock_works(postgres_url: str, tmp_path: Path, settings: Settings) -> None:
    database, stop = Database(postgres_url), threading.Event()
    with database.write() as session:
        add_dataset(session, images={"a": 1})
    store = LocalStore(tmp_path)
    put(store, STRAY, age_seconds=OLD_SECONDS)
    caretaker = Caretaker(database, store, settings, stop)
    with database.leadership(CARETAKER_LOCK) as leading:
        assert leading
        caretaker.start()
        stop.wait(0.5)
        assert store.size(STRAY) == 10
    wait_until(lambda: gone(store), seconds=30, what="the sweep after the lock was free")
    stop.set()
    caretaker.end()
    database.engine.dispose()


def failing_once(failures: list[Exception], done: threading.Event) -> Iterator[None]:
    yield
    if failures:
        raise failures.pop()
    done.set()


def test_a_chore_whose_store_is_away_rests_and_begins_again() -> None:
    done, stop = threading.Event(), threading.Event()
    failures: list[Exception] = [Unavailable("away")]
    chore = Chore("test", lambda: failing_once(failures, done), every_seconds=60, again_seconds=0)
    chore.work(stop)
    chore.work(stop)
    assert done.is_set()
    assert chore.is_waiting


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1:1/away", "sqlite:////nowhere/away.db"])
def test_the_caretaker_waits_for_a_database_that_is_away(url: str, tmp_path: Path, settings: Settings) -> None:
    stop = threading.Event()
    caretaker = Caretaker(Database(url), LocalStore(tmp_path), settings, stop)
    caretaker.start()
    stop.wait(0.5)
    assert not caretaker.has_died
    stop.set()
    caretaker.end()
    assert "caretaker" not in {thread.name for thread in threading.enumerate()}


class Broken(LocalStore):
    """A store with a bug."""

    def entries(self, prefix: str) -> Iterator[None]:  # type: ignore[override]
        raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_chore_is_noticed(database: Database, store: LocalStore, settings: Settings) -> None:
    caretaker = Caretaker(database, Broken(store.root), settings, threading.Event())
    caretaker.start()
    assert wait_until(lambda: caretaker.has_died or None, seconds=30, what="the thread's end")


def test_a_dispatcher_process_sweeps_and_ends_on_sigterm(
    database: Database, database_url: str, store: LocalStore, tmp_path: Path
) -> None:
    variables = {
        "SYNTHCLONE_DATABASE_URL": database_url,
        "SYNTHCLONE_DATA_DIR": str(tmp_path),
        "SYNTHCLONE_STRAY_SECONDS": "200",
    }
    with Processes(tmp_path, variables) as processes:
        dispatcher = processes.module("services.dispatcher")
        wait_until(lambda: gone(store), seconds=60, what="the sweep")
        dispatcher.send_signal(signal.SIGTERM)
        assert dispatcher.wait(10) == 0
