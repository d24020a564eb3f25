import random
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.dispatcher.sweep import BATCH, sweep
from shared.database import Database
from shared.settings import Settings
from shared.storage import LocalStore, ObjectStore, S3Store
from shared.tables import Shard
from tests.dispatcher.bucket import OLD_SECONDS, image_key, put, random_results, random_shards, without_rows
from tests.rows import add_dataset, claim, plan_all
from tests.s3_servers import has_radosgw, moto, s3_settings

NO_CEPH = pytest.mark.skipif(not has_radosgw(), reason="Ceph packages not installed")
# Each server with one database: every pair takes seconds, and a folder is swept with both databases below.
REAL = [("sqlite", "moto"), pytest.param("postgres", "radosgw", marks=[NO_CEPH, pytest.mark.postgres])]


@pytest.fixture
def folder(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> Iterator[S3Store]:
    with moto() if request.param == "moto" else nullcontext(request.getfixturevalue("radosgw_address")) as address:
        store = S3Store(s3_settings(address))
        store.create_bucket()
        yield store


def keys(store: ObjectStore) -> set[str]:
    return {entry.key for entry in store.entries("")}


def sweep_all(database: Database, store: ObjectStore, *, stray_seconds: float = OLD_SECONDS / 2) -> None:
    for _ in sweep(database, store, stray_seconds=stray_seconds):
        pass


def dataset(database: Database) -> None:
    with database.write() as session:
        job = add_dataset(session, images={"a": 128})
    plan_all(database, job.id)


@pytest.mark.parametrize("seed", range(6))
def test_a_sweep_deletes_exactly_the_old_objects_that_nothing_refers_to(
    database: Database, folder: LocalStore, seed: int
) -> None:
    chance = random.Random(seed)
    with database.write() as session:
        rows = chain(random_shards(session, chance), random_results(session, chance), without_rows(chance))
        planned = [item for item in rows if chance.random() < 0.8]
    old = [put(folder, item.key, age_seconds=OLD_SECONDS) for item in planned[::2]]
    young = [put(folder, item.key) for item in planned[1::2]]
    sweep_all(database, folder)
    kept = {item.key for item in planned if item.is_kept}
    assert keys(folder) == (set(old) & kept) | set(young)


@pytest.mark.parametrize(("database_url", "bucket"), REAL, indirect=True)
def test_a_sweep_of_a_real_bucket_leaves_what_rows_refer_to(database: Database, bucket: S3Store) -> None:
    chance = random.Random(7)
    with database.write() as session:
        planned = [*random_shards(session, chance), *random_results(session, chance), *without_rows(chance)]
    for item in planned:
        put(bucket, item.key)
    time.sleep(2.1)  # S3 dates objects to the second
    put(bucket, "images/0/young/00000000-00000001-1.tar")
    sweep_all(database, bucket, stray_seconds=1)
    assert keys(bucket) == {item.key for item in planned if item.is_kept} | {"images/0/young/00000000-00000001-1.tar"}


def test_a_sweep_works_through_more_entries_than_one_batch(database: Database, folder: LocalStore) -> None:
    dataset(database)
    for start in range(2 * BATCH + 10):
        put(folder, f"images/0/a-text/{start:08d}-{start + 1:08d}-1.tar", age_seconds=OLD_SECONDS)
    sweep_all(database, folder)
    assert keys(folder) == set()


def test_an_object_rewritten_under_the_name_of_a_lost_one_is_not_swept(database: Database, folder: LocalStore) -> None:
    dataset(database)
    with database.read() as session:
        shard = session.query(Shard).one()
    earlier = put(folder, "images/0/a-text/00000000-00000128-1.tar", age_seconds=OLD_SECONDS)
    lost = put(folder, image_key(shard, 1), age_seconds=OLD_SECONDS)
    steps = sweep(database, folder, stray_seconds=OLD_SECONDS / 2)
    while earlier in keys(folder):
        next(steps)  # both have been looked up once the first is gone
    assert claim(database)[0].object_key == lost
    put(folder, lost)
    list(steps)
    assert keys(folder) == {lost}


def test_a_database_without_jobs_sweeps_nothing(database: Database, folder: LocalStore) -> None:
    key = put(folder, f"images/{'0' * 64}/a-text/00000000-00000128-1.tar", age_seconds=OLD_SECONDS)
    sweep_all(database, folder)
    assert keys(folder) == {key}


def test_strays_are_never_younger_than_two_leases() -> None:
    with pytest.raises(ValidationError, match="stray_seconds 100 is less than twice lease_seconds 75"):
        Settings(stray_seconds=100, lease_seconds=75)
