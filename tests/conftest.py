"""Fixtures for many tests: a real database of each kind, and the API behind a real socket."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import delete

from services.prompt_api.__main__ import Server, listen, server_config
from services.prompt_api.app import create_app
from shared.database import Database
from shared.lexicon import build_lexicon
from shared.schema import create_default_team, upgrade
from shared.settings import Settings
from shared.storage import LocalStore, ObjectStore
from shared.tables import Base
from shared.wordnet import fetch_wordnet
from tests.s3_servers import radosgw

# Triton looks at it when it is imported. Nothing here has a GPU, for which alone its kernels are meant.
os.environ["TRITON_INTERPRET"] = "1"
DATA = Path(__file__).parents[1] / "data"
pytest_plugins = ("tests.pieces", "tests.tables")
KINDS = ("sqlite", pytest.param("postgres", marks=pytest.mark.postgres))
ServeApi = Callable[[Settings], httpx2.Client]


@pytest.fixture(scope="session")
def lexicon_path() -> Path:
    path = DATA / "lexicon.json"
    if not path.is_file():
        build_lexicon(fetch_wordnet(DATA / "wordnet"), path)
    return path


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """An empty database of this test run, on the server that `psql` reaches without arguments."""
    if shutil.which("createdb") is None:
        pytest.skip("PostgreSQL's createdb is not installed")
    name = f"synthclone_test_{os.getpid()}"
    created = subprocess.run(["createdb", name], capture_output=True, text=True, check=False)
    if created.returncode != 0:
        pytest.skip(f"PostgreSQL does not answer: {created.stderr.strip()}")
    hasty = f"ALTER DATABASE {name} SET synchronous_commit = off"
    subprocess.run(["psql", "--quiet", "--command", hasty, name], check=True)
    yield f"postgresql:///{name}"
    subprocess.run(["dropdb", "--force", name], check=True)


@pytest.fixture(scope="session", params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A migrated database of each kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/test.db"
    else:
        url = request.getfixturevalue("postgres_url")
    database = Database(url)
    upgrade(database)
    database.engine.dispose()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Empty but for the default team."""
    database = Database(database_url)
    empty(database)
    create_default_team(database)
    yield database
    database.engine.dispose()


def empty(database: Database) -> None:
    # On tables of a few rows DELETE is faster than TRUNCATE, which makes new files.
    with database.engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(delete(table))


def changed(settings: Settings, **changes: object) -> Settings:
    return Settings.model_validate(settings.model_dump() | changes)


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The API in a thread, on a port of its own; yields its address."""
    listener = listen("127.0.0.1", 0)
    server = Server(server_config(app, grace_seconds=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def radosgw_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Ceph gateway for all, as it takes long to start; each user makes a bucket of its own."""
    with radosgw(tmp_path_factory.mktemp("ceph")) as address:
        yield address


@pytest.fixture(scope="session")
def api_settings(database_url: str, lexicon_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(database_url=database_url, data_dir=tmp_path_factory.mktemp("data"), lexicon_path=lexicon_path)


@pytest.fixture(scope="session")
def api_url(api_settings: Settings) -> Iterator[str]:
    with serving(create_app(api_settings)) as url:
        yield url


@pytest.fixture
def api(api_url: str, database: Database) -> Iterator[httpx2.Client]:
    """A client of the running API, over the empty `database`."""
    with httpx2.Client(base_url=api_url, timeout=30) as client:
        yield client


@pytest.fixture
def store(api_settings: Settings) -> ObjectStore:
    """Where the running API reads objects."""
    return LocalStore(api_settings.objects_dir)


@pytest.fixture
def serve_api() -> Iterator[ServeApi]:
    """Starts the API with settings of the test's own."""
    with ExitStack() as running:

        def start(settings: Settings) -> httpx2.Client:
            url = running.enter_context(serving(create_app(settings)))
            return running.enter_context(httpx2.Client(base_url=url, timeout=30))

        yield start


@pytest.fixture
def pepper() -> SecretStr:
    return SecretStr("a pepper of thirty-two characters")
