"""A migrated PostgreSQL database with a login per service."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text

from services.prompt_api.keys import create_key
from shared import job_leases, leases
from shared.database import Database
from shared.job_leases import JobLease
from shared.roles import GRANTS, grant
from shared.schema import create_default_team, upgrade
from shared.settings import Settings
from shared.storage import LocalStore
from tests.conftest import ServeApi, changed, empty
from tests.rows import claim as claim_shard
from tests.rows import stored

ROLES_SQL = Path(__file__).parents[2] / "deploy/roles.sql"
PREFIX = f"synthclone_test_{os.getpid()}_"
PASSWORDS = {f"{service.upper()}_PASSWORD": f"{service} word" for service in GRANTS}
IMAGE = b"not looked at"


@pytest.fixture(scope="module")
def owner(postgres_url: str) -> Iterator[Database]:
    """The migrated database with a role per service, all dropped again at the end."""
    database = Database(postgres_url)
    upgrade(database)
    make_roles(database)
    with database.engine.begin() as connection:
        granted = grant(connection, prefix=PREFIX)
    assert granted == [PREFIX + service for service in GRANTS]
    yield database
    with database.engine.begin() as connection:
        connection.execute(text("DROP VIEW open_shards"))
        for role in granted:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
    database.engine.dispose()


def make_roles(database: Database) -> None:
    command = ["psql", "--quiet", "--set", "ON_ERROR_STOP=1", "--set", f"prefix={PREFIX}", "--file", str(ROLES_SQL)]
    name = str(database.engine.url.database)
    subprocess.run([*command, name], env=os.environ | PASSWORDS, check=True)


Logins = Callable[[str], Database]


@pytest.fixture
def login(owner: Database) -> Iterator[Logins]:
    """The database as a service sees it, empty but for the default team."""
    empty(owner)
    create_default_team(owner)
    opened: list[Database] = []

    def as_service(service: str) -> Database:
        opened.append(Database(url_of(owner, service)))
        return opened[-1]

    yield as_service
    for database in opened:
        database.engine.dispose()


def url_of(owner: Database, service: str) -> str:
    with owner.engine.connect() as connection:
        port = int(connection.scalar(text("SHOW port")) or 0)
    url = make_url(f"postgresql://127.0.0.1:{port}/{owner.engine.url.database}")
    return url.set(username=PREFIX + service, password=f"{service} word").render_as_string(hide_password=False)


@pytest.fixture
def place(tmp_path: Path, lexicon_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, lexicon_path=lexicon_path, plan_window=8, shard_slots=1)


@pytest.fixture
def objects(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


@pytest.fixture
def api(owner: Database, login: Logins, place: Settings, serve_api: ServeApi, pepper: SecretStr) -> httpx2.Client:
    """The API as its role, asked with a key that the owner made."""
    with owner.write() as session:
        key = create_key(session, "default", pepper=pepper)
    settings = changed(
        place, database_url=url_of(owner, "api"), auth="keys", key_pepper=pepper, webhook_hosts=["*.example.org"]
    )
    client = serve_api(settings)
    client.headers["Authorization"] = f"Bearer {key}"
    return client


def make_dataset(api: httpx2.Client) -> str:
    body = {"classes": "digits", "images_per_class": 1, "seed": 5}
    made = api.post("/datasets", json=body, headers={"Idempotency-Key": "once"})
    assert made.status_code == 202, made.text
    return str(made.json()["id"])


def draw(worker: Database, store: LocalStore) -> int:
    """Claims a shard, stores something, commits it; returns the shard's id."""
    (lease,) = claim_shard(worker)
    with worker.write() as session:
        assert leases.extend(session, [lease], lease_seconds=9) == {lease.shard_id}
    store.put(lease.object_key, IMAGE)
    with worker.write() as session:
        leases.commit(session, lease, stored(lease))
    return lease.shard_id


def hold_job(database: Database, kind: str) -> JobLease:
    with database.write() as session:
        lease = job_leases.claim_job(session, kind, worker="w", lease_seconds=9)
    assert lease is not None
    return lease
