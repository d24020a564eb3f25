"""A retry of a dataset pays only for what the first one lacks."""

import json
from pathlib import Path

from services.dispatcher.tick import tick
from services.prompt_api.new_jobs import add_retry
from shared import leases
from shared.database import Database
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import Job
from tests.rows import claim, commit, job_of, planned_dataset, state_of


def retried(database: Database, job_id: str) -> str:
    with database.write() as session:
        return add_retry(session, session.get_one(Job, job_id)).id


def keys_of(database: Database, store: LocalStore, job_id: str) -> list[str]:
    result = job_of(database, job_id).result
    assert result is not None
    return [shard["key"] for shard in json.loads(store.get(str(result["manifest_key"])))["shards"]]


def test_a_retry_of_a_partial_dataset_draws_only_the_shard_that_failed(database: Database, tmp_path: Path) -> None:
    store, settings = LocalStore(tmp_path), Settings()
    first = planned_dataset(database, {"a": 150, "b": 128})
    *good, bad = claim(database, limit=3)
    for lease in good:
        commit(database, lease)
    with database.write() as session:
        leases.give_up(session, bad, reason="out of memory", max_attempts=1)
    tick(database, store, settings, absent={})
    assert state_of(database, first) == "partial"

    second = retried(database, first)
    tick(database, store, settings, absent={})
    claimed = claim(database, limit=3)

    assert [(lease.shard_id, lease.fence) for lease in claimed] == [(bad.shard_id, bad.fence + 1)]
    commit(database, claimed[0])
    tick(database, store, settings, absent={})
    job, drawn = job_of(database, second), bad.stop_slot - bad.start_slot
    assert (job.state, job.done, job.drawn_images) == ("succeeded", 278, drawn)
    expected = {lease.object_key for lease in (*good, claimed[0])}
    assert set(keys_of(database, store, second)) == expected
