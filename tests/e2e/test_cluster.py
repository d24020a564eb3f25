"""The whole chain with the cluster's parts: PostgreSQL, Redis, Celery workers and an S3 server, all real."""

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from shared.vision.real.registered import NewSet, inspect, register

import httpx2
import pytest
import redis
import webdataset
from sqlalchemy import func, select

from services.prompt_api.keys import create_key
from shared.database import Database
from shared.migrate import migrate
from shared.settings import Settings
from shared.storage import S3Store
from shared.tables import Shard
from tests.addresses import free_port, redis_url
from tests.processes import Processes, wait_until
from tests.s3_servers import ACCESS_KEY, SECRET_KEY, has_radosgw, moto
from tests.shared.real.layouts import small_images, write_imagefolder

DIGITS = {"classes": "digits", "prompt": "description", "scale": 2, "images_per_class": 20, "steps": 4}
TRAINING = {
    "architecture": "test_resnet",
    "steps": 60,
    "optimizer": "adamw",
    "learning_rate": 0.002,
    "flip": False,
    "checkpoint_steps": 30,
}


class Cluster(NamedTuple):
    client: httpx2.Client
    settings: Settings
    generator: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def s3_address(request: pytest.FixtureRequest) -> Iterator[str]:
    """radosgw where the Ceph packages are installed, else moto."""
    with nullcontext(request.getfixturevalue("radosgw_address")) if has_radosgw() else moto() as address:
        yield address


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    url = redis_url()
    client = redis.Redis.from_url(url)
    try:
        client.flushdb()
    except redis.exceptions.ConnectionError as error:
        pytest.skip(f"Redis does not answer: {error}")
    yield url
    client.flushdb()


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, broker: str, s3_address: str, lexicon_path: Path
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    environment = {
        "SYNTHCLONE_MODE": "cluster",
        "SYNTHCLONE_AUTH": "keys",
        "SYNTHCLONE_KEY_PEPPER": secrets.token_hex(16),
        "SYNTHCLONE_API_PORT": str(free_port()),
        "SYNTHCLONE_DATA_DIR": str(folder / "scratch"),
        "SYNTHCLONE_LEXICON_PATH": str(lexicon_path),
        "SYNTHCLONE_DATABASE_URL": postgres_url,
        "SYNTHCLONE_REDIS_URL": broker,
        "SYNTHCLONE_S3_ENDPOINT": s3_address,
        "SYNTHCLONE_S3_SECURE": "false",
        "SYNTHCLONE_S3_BUCKET": f"cluster-{secrets.token_hex(4)}",
        "SYNTHCLONE_S3_ACCESS_KEY": ACCESS_KEY,
        "SYNTHCLONE_S3_SECRET_KEY": SECRET_KEY,
        "SYNTHCLONE_RING_AGAIN_SECONDS": "5",
    }
    settings = settings_of(environment)
    migrate(settings)
    with Database(settings.sqlalchemy_url).write() as session:
        assert settings.key_pepper is not None
        key = create_key(session, "default", pepper=settings.key_pepper)
    with Processes(folder, environment) as processes:
        processes.module("services.prompt_api")
        processes.module("services.dispatcher")
        generator = processes.celery("services.sd_worker.tasks", "generate")
        processes.celery("services.trainer.tasks", "train")
        processes.celery("services.evaluator.tasks", "evaluate")
        address = f"http://127.0.0.1:{environment['SYNTHCLONE_API_PORT']}"
        with httpx2.Client(base_url=address, headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
            wait_until(lambda: answers(client), seconds=60, what="the API")
            yield Cluster(client, settings, generator)


def settings_of(environment: dict[str, str]) -> Settings:
    return Settings.model_validate(
        {name.removeprefix("SYNTHCLONE_").lower(): value for name, value in environment.items()}
    )


def answers(client: httpx2.Client) -> bool | None:
    try:
        return True if client.get("/readyz").status_code == 200 else None
    except httpx2.TransportError:
        return None


def ended(client: httpx2.Client, job_id: str) -> dict[str, object] | None:
    job: dict[str, object] = client.get(f"/jobs/{job_id}").json()
    return job if job["terminal"] else None


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.redis
def test_dataset_training_and_evaluation_posted_at_once_end_in_a_report(cluster: Cluster, tmp_path: Path) -> None:
    client = cluster.client
    dataset = client.post("/datasets", json=DIGITS).json()["id"]
    training = client.post("/trainings", json={**TRAINING, "datasets": [dataset]}).json()["id"]
    add_test_set(cluster.settings, "photos", tmp_path)
    asked = {"training": training, "benchmarks": ["digits", "photos"]}
    evaluation = client.post("/evaluations", json=asked).json()["id"]
    jobs = [wait_until(lambda: ended(client, evaluation), seconds=240, what="the report")]
    jobs += [client.get(f"/jobs/{job_id}").json() for job_id in (dataset, training)]
    assert [job["state"] for job in jobs] == ["succeeded"] * 3
    assert jobs[1]["counts"]["done"] == 200
    report = client.get(f"/evaluations/{evaluation}/report").json()
    benchmark, photos = report["benchmarks"]
    assert (photos["name"], photos["images"]) == ("photos", 40)
    assert (benchmark["name"], benchmark["images"]) == ("digits", 540)
    assert 0.2 < benchmark["top1"] <= 1.0  # ten classes: chance is 0.1


def add_test_set(settings: Settings, name: str, folder: Path) -> None:
    """Files that the evaluator reads with loaders of its own, as a daemon of Celery's pool."""
    root = write_imagefolder(folder / name, small_images())
    found = inspect(NewSet(name, root, role="test"), cache_dir=folder / "cache")
    with Database(settings.sqlalchemy_url).write() as session:
        register(session, found)


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.redis
def test_the_bucket_holds_webdataset_tars_that_presigned_links_serve(cluster: Cluster, tmp_path: Path) -> None:
    client = cluster.client
    dataset = client.post("/datasets", json=DIGITS).json()["id"]
    wait_until(lambda: ended(client, dataset), seconds=120, what="the dataset")
    shards = client.get(f"/datasets/{dataset}/shards").json()["items"]
    assert len(shards) == 10
    for shard in shards:
        tar = tmp_path / f"{shard['class_id']}.tar"
        tar.write_bytes(httpx2.get(shard["url"], timeout=30).content)
        samples = list(webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False))
        assert len(samples) == 20
    store = S3Store(cluster.settings)
    assert {shard["key"] for shard in shards} <= {entry.key for entry in store.entries("images/")}


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.redis
def test_a_warm_shutdown_gives_the_shards_back_without_counting_the_attempt(cluster: Cluster) -> None:
    many = {**DIGITS, "images_per_class": 3000, "steps": 20, "seed": 1}
    dataset = cluster.client.post("/datasets", json=many).json()["id"]
    database = Database(cluster.settings.sqlalchemy_url)
    wait_until(lambda: leased_shards(database) or None, seconds=60, what="a claim")
    os.kill(cluster.generator.pid, signal.SIGTERM)
    assert cluster.generator.wait(60) == 0
    with database.read() as session:
        assert session.scalar(select(func.max(Shard.attempts)).where(Shard.state == "pending")) == 0
    assert leased_shards(database) == 0
    cluster.client.post(f"/jobs/{dataset}/cancel")
    job = wait_until(lambda: ended(cluster.client, dataset), seconds=20, what="the cancellation")
    assert job["state"] == "cancelled"


def leased_shards(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Shard).where(Shard.state == "leased")) or 0
