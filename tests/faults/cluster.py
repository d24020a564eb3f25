"""Every part of a cluster on this machine, each behind a link that can fail: PostgreSQL, Redis, S3, API, workers."""

import json
import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import delete, select

from services.prompt_api.keys import create_key
from shared.database import Database
from shared.migrate import migrate
from shared.settings import PROJECT_ROOT, Settings
from shared.storage import S3Store
from shared.tables import DatasetClass, DatasetShard, Event, IdempotencyKey, Job, Shard, Worker
from tests.addresses import free_port
from tests.postgres_server import PostgresServer, postgres_server
from tests.processes import wait_until
from tests.s3_servers import ACCESS_KEY, SECRET_KEY, has_radosgw, moto, radosgw

from . import audit
from .client import User
from .model import BATCH_SECONDS, MODEL, REGISTER
from .parts import Orchestrator, Part, RedisServer, redis_server
from .proxy import GOOD, Proxy

LEASE_SECONDS = 5.0
TICK_SECONDS = 0.3
RING_AGAIN_SECONDS = 2.0
SLOTS = 8
DRAWING_SECONDS = 0.25
SWEEP_SECONDS = 5.0
STRAY_SECONDS = 12.0
MOST_ATTEMPTS = 4
SMALL = {
    "LEASE_SECONDS": LEASE_SECONDS,
    "TICK_SECONDS": TICK_SECONDS,
    "RING_AGAIN_SECONDS": RING_AGAIN_SECONDS,
    "SHARD_SLOTS": SLOTS,
    "BATCH_SIZE": SLOTS,
    "MAX_ATTEMPTS": MOST_ATTEMPTS,
    "WATCHDOG_SECONDS": 15,
    "SWEEP_SECONDS": SWEEP_SECONDS,
    "STRAY_SECONDS": STRAY_SECONDS,
    "REQUESTS_PER_MINUTE": 100_000,
}


class Links(NamedTuple):
    postgres: Proxy
    redis: Proxy
    s3: Proxy


class Held(NamedTuple):
    """A claim of one worker at the moment a fault struck it."""

    shard_id: int
    fence: int


class Cluster:
    """The running parts, and the harness's own undisturbed way to database and bucket."""

    def __init__(
        self,
        *,
        postgres: PostgresServer,
        redis: RedisServer,
        links: Links,
        settings: Settings,
        orchestrator: Orchestrator,
    ) -> None:
        self.postgres, self.redis, self.links = postgres, redis, links
        self.settings = settings
        self.orchestrator = orchestrator
        self.database = Database(settings.sqlalchemy_url)
        self.store = S3Store(settings)
        assert settings.key_pepper is not None
        with self.database.write() as session:
            key = create_key(session, "default", pepper=settings.key_pepper)
        self.user = User(f"http://127.0.0.1:{settings.api_port}", key)

    def start(self, *, workers: int) -> None:
        self.orchestrator.module("api", "services.prompt_api")
        for number in range(2):
            self.orchestrator.module(f"dispatcher-{number}", "services.dispatcher")
        self.start_workers("tests.faults.stand_in", workers)
        wait_until(lambda: self.user.get("/readyz"), seconds=90, what="the API")

    def start_workers(self, target: str, count: int) -> None:
        """Generating workers of this kind, in place of those that run."""
        for name in [name for name in self.orchestrator.parts if name.startswith("worker")]:
            self.orchestrator.remove(name)
        for number in range(count):
            self.orchestrator.celery(f"worker-{number}", target, "generate")
        self.wait_for_workers(count)

    def wait_for_workers(self, count: int) -> None:
        """Until so many generating processes of now are ready to be woken."""
        wait_until(lambda: len(self.workers()) >= count or None, seconds=120, what=f"{count} workers")

    def workers(self) -> dict[str, Part]:
        """Worker row to its process group, for those whose process lives."""
        with self.database.read() as session:
            rows = session.execute(select(Worker.id, Worker.host).where(Worker.kind == "generate")).all()
        owners = {row.id: self.part_of(int(row.host.rsplit(":", 1)[1])) for row in rows}
        return {worker: part for worker, part in owners.items() if part is not None}

    def part_of(self, pid: int) -> Part | None:
        """The part whose process group this is in."""
        try:
            group = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[2])
        except (FileNotFoundError, ProcessLookupError):
            return None
        return next((part for part in self.orchestrator.parts.values() if part.process.pid == group), None)

    def part(self, name: str) -> Part:
        return self.orchestrator.parts[name]

    def child_pid(self, worker: str) -> int:
        with self.database.read() as session:
            return int(session.get_one(Worker, worker).host.rsplit(":", 1)[1])

    def held(self, worker: str | None = None) -> list[Held]:
        """The shards that this worker, or any, has a lease of now."""
        query = select(Shard.id, Shard.fence).where(Shard.state == "leased")
        with self.database.read() as session:
            rows = session.execute(query.where(Shard.lease_owner == worker) if worker else query).all()
        return [Held(row.id, row.fence) for row in rows]

    def busy_worker(self) -> str:
        """A worker that holds a lease right now, by its row."""

        def look() -> str | None:
            alive = self.workers()
            with self.database.read() as session:
                owners = session.scalars(select(Shard.lease_owner).where(Shard.state == "leased")).all()
            return next((owner for owner in owners if owner in alive), None)

        return wait_until(look, seconds=60, what="a claim")

    def heal(self) -> None:
        """After a fault that broke off: every link good, every server and part up."""
        for proxy in self.links:
            proxy.link, proxy.cut, proxy.hold = GOOD, None, None
        for part in self.orchestrator.parts.values():
            part.signal(signal.SIGCONT)
        if not self.postgres.is_running:
            self.postgres.start()
        if not self.redis.is_running:
            self.redis.start()

    def forget(self, job_id: str) -> None:
        """Remove a dataset with its shards and objects, so that the same one is drawn anew."""
        mine = select(DatasetShard.shard_id).where(DatasetShard.job_id == job_id)
        with self.database.write() as session:
            shard_ids = session.scalars(mine).all()
            keys = session.scalars(select(Shard.object_key).where(Shard.id.in_(shard_ids))).all()
            for table in (IdempotencyKey, DatasetShard, DatasetClass, Event):
                session.execute(delete(table).where(table.job_id == job_id))
            session.execute(delete(Shard).where(Shard.id.in_(shard_ids)))
            session.execute(delete(Job).where(Job.id == job_id))
        for key in keys:
            self.store.delete(str(key))
        self.user.acknowledged.remove(job_id)

    def close(self) -> None:
        self.user.close()
        self.orchestrator.close()
        self.database.engine.dispose()


@contextmanager
def cluster(
    folder: Path, *, workers: int = 3, with_radosgw: bool | None = None, max_attempts: int = MOST_ATTEMPTS
) -> Iterator[Cluster]:
    """radosgw where the Ceph packages are installed, unless told otherwise: it survives and it checks signatures."""
    with ExitStack() as running:
        postgres = running.enter_context(postgres_server())
        redis = running.enter_context(redis_server(free_port()))
        ceph = has_radosgw() if with_radosgw is None else with_radosgw
        (folder / "s3").mkdir(parents=True)
        s3 = running.enter_context(radosgw(folder / "s3") if ceph else moto())
        links = Links(*(Proxy(port) for port in (postgres.port, redis.port, int(s3.rsplit(":", 1)[1]))))
        for proxy in links:
            running.callback(proxy.close)
        environment = make_environment(folder, postgres, redis, s3) | {"MAX_ATTEMPTS": str(max_attempts)}
        direct = Settings.model_validate({name.lower(): value for name, value in environment.items()})
        migrate(direct)
        audit.install(Database(direct.sqlalchemy_url))
        behind = environment | {
            "DATABASE_URL": postgres.url.replace(str(postgres.port), str(links.postgres.port)),
            "REDIS_URL": redis.url.replace(str(redis.port), str(links.redis.port)),
            "S3_ENDPOINT": links.s3.address,
        }
        variables = {f"SYNTHCLONE_{name}": value for name, value in behind.items()}
        variables[BATCH_SECONDS] = str(DRAWING_SECONDS)
        orchestrator = Orchestrator(folder, variables)
        parts = Cluster(postgres=postgres, redis=redis, links=links, settings=direct, orchestrator=orchestrator)
        running.callback(parts.close)
        try:
            parts.start(workers=workers)
            yield parts
        except BaseException as error:
            error.add_note(orchestrator.logs())
            raise


def make_environment(folder: Path, postgres: PostgresServer, redis: RedisServer, s3: str) -> dict[str, str]:
    """Settings without their prefix, with direct addresses."""
    return {
        "MODE": "cluster",
        "AUTH": "keys",
        "KEY_PEPPER": secrets.token_hex(16),
        "API_PORT": str(free_port()),
        "DATA_DIR": str(folder / "scratch"),
        "LEXICON_PATH": str(PROJECT_ROOT / "data/lexicon.json"),
        "MODELS_DIR": str(make_models(folder)),
        "MODELS_FILE": str(folder / "models.json"),
        "DEFAULT_MODEL": MODEL,
        "DATABASE_URL": postgres.url,
        "REDIS_URL": redis.url,
        "S3_ENDPOINT": s3,
        "S3_SECURE": "false",
        "S3_BUCKET": f"faults-{secrets.token_hex(4)}",
        "S3_ACCESS_KEY": ACCESS_KEY,
        "S3_SECRET_KEY": SECRET_KEY,
        **{name: str(value) for name, value in SMALL.items()},
    }


def make_models(folder: Path) -> Path:
    """The built-in demo model beside the stand-in, which needs nothing but a folder that looks like a model."""
    models = folder / "models"
    (models / MODEL).mkdir(parents=True)
    (models / MODEL / "model_index.json").write_text("{}")
    (models / "digits-sd").symlink_to(PROJECT_ROOT / "models/digits-sd")
    (folder / "models.json").write_text(json.dumps(REGISTER))
    return models
