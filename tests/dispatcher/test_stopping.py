from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select

from services.dispatcher.tick import tick
from services.prompt_api.new_jobs import add_retry
from shared import leases
from shared.database import Database, database_now
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import DatasetClass, Event, Job, Shard
from tests.rows import add_dataset, claim, commit, job_of, stored

CLASSES = ("a", "b", "c")
Tick = Callable[[], None]


@pytest.fixture
def ticked(database: Database, tmp_path: Path) -> Tick:
    store = LocalStore(tmp_path)
    return lambda: tick(database, store, Settings(shard_slots=8), absent={})


def dataset(database: Database, *, each: int, **limits: object) -> str:
    with database.write() as session:
        return add_dataset(session, images=dict.fromkeys(CLASSES, each), **limits).id


def draw_until_nothing_is_pending(database: Database, ticked: Tick) -> None:
    ticked()
    while claimed := claim(database):
        commit(database, claimed[0])
        ticked()
    ticked()


def per_class(database: Database, job_id: str) -> list[int]:
    query = select(DatasetClass.done).where(DatasetClass.job_id == job_id).order_by(DatasetClass.position)
    with database.read() as session:
        return list(session.scalars(query).all())


def stop_now(database: Database, job_id: str) -> None:
    with database.write() as session:
        session.get_one(Job, job_id).deadline = database_now(session) - timedelta(seconds=1)


@pytest.mark.parametrize(("budget", "expected"), [(60, [20, 20, 20]), (64, [22, 21, 21]), (2, [1, 1, 0])])
def test_a_budget_of_images_is_divided_between_the_classes(
    database: Database, ticked: Tick, budget: int, expected: list[int]
) -> None:
    job_id = dataset(database, each=100, budget_images=budget)
    draw_until_nothing_is_pending(database, ticked)
    job = job_of(database, job_id)
    assert per_class(database, job_id) == expected
    assert (job.state, job.stop_reason, job.done, job.drawn_images) == ("partial", "images", sum(expected), job.done)
    assert job.drawn_images <= budget


def test_the_error_of_a_stopped_dataset_names_the_limit_and_how_far_it_came(database: Database, ticked: Tick) -> None:
    job_id = dataset(database, each=100, budget_images=60)
    draw_until_nothing_is_pending(database, ticked)
    error = job_of(database, job_id).error
    assert error == {
        "type": "urn:synthclone:problem:stopped",
        "detail": "stopped at its budget of 60 new images with 60 of 300 images, 20 per class",
        "retryable": True,
    }


def test_reused_images_cost_no_budget(database: Database, ticked: Tick) -> None:
    dataset(database, each=16)
    draw_until_nothing_is_pending(database, ticked)
    job_id = dataset(database, each=100, budget_images=30)
    draw_until_nothing_is_pending(database, ticked)
    job = job_of(database, job_id)
    assert (job.done, job.reused, job.drawn_images) == (78, 48, 30)
    assert per_class(database, job_id) == [26, 26, 26]


def test_what_another_team_draws_meanwhile_goes_back_into_the_budget(database: Database, ticked: Tick) -> None:
    payer = dataset(database, each=8)
    ticked()
    job_id = dataset(database, each=16, budget_images=24)
    draw_until_nothing_is_pending(database, ticked)
    job = job_of(database, job_id)
    assert job_of(database, payer).drawn_images == 24
    assert (job.state, job.done, job.drawn_images) == ("succeeded", 48, 24)


def test_a_shard_of_others_that_is_larger_than_the_budget_is_not_begun(database: Database, ticked: Tick) -> None:
    dataset(database, each=8)
    ticked()
    job_id = dataset(database, each=8, budget_images=7)
    ticked()
    job = job_of(database, job_id)
    assert (job.planned_images, job.stop_reason) == (0, "images")


def test_a_budget_that_suffices_stops_nothing(database: Database, ticked: Tick) -> None:
    job_id = dataset(database, each=20, budget_images=60, budget_seconds=1000.0)
    draw_until_nothing_is_pending(database, ticked)
    assert (job_of(database, job_id).state, job_of(database, job_id).stop_reason) == ("succeeded", None)


def test_a_deadline_stops_claims_and_lets_what_is_drawn_count(database: Database, ticked: Tick) -> None:
    job_id = dataset(database, each=100, deadline=None)
    ticked()
    in_hand = claim(database, limit=2)
    stop_now(database, job_id)
    ticked()
    assert claim(database) == []
    assert job_of(database, job_id).state == "running"
    with database.write() as session:
        assert leases.extend(session, in_hand, lease_seconds=60) == {lease.shard_id for lease in in_hand}
    for lease in in_hand:
        commit(database, lease)
    ticked()
    job = job_of(database, job_id)
    assert (job.state, job.done, job.stop_reason) == ("partial", 16, "deadline")


def test_pending_shards_of_a_stopped_dataset_rest_unless_another_wants_them(database: Database, ticked: Tick) -> None:
    stopped = dataset(database, each=8)
    with database.write() as session:
        other = add_dataset(session, images={"a": 8}).id
    ticked()
    stop_now(database, stopped)
    ticked()
    with database.read() as session:
        states = session.execute(select(Shard.class_key, Shard.state).order_by(Shard.class_key)).all()
    assert [tuple(row) for row in states] == [("a-text", "pending"), ("b-text", "dormant"), ("c-text", "dormant")]
    assert job_of(database, other).state == "queued"


def test_a_dataset_stopped_before_its_first_image_has_failed(database: Database, ticked: Tick) -> None:
    job_id = dataset(database, each=8)
    stop_now(database, job_id)
    ticked()
    job = job_of(database, job_id)
    assert (job.state, job.done) == ("failed", 0)
    assert job.result is not None


def test_worker_seconds_stop_a_dataset_with_classes_within_one_tile(database: Database, ticked: Tick) -> None:
    job_id = dataset(database, each=500, budget_seconds=7.0)
    ticked()
    for _ in range(10):
        for lease in claim(database):
            with database.write() as session:
                leases.commit(session, lease, stored(lease)._replace(seconds=1.0))
        ticked()
    job = job_of(database, job_id)
    assert (job.state, job.stop_reason, job.spent_seconds) == ("partial", "worker_seconds", 7.0)
    assert max(per_class(database, job_id)) - min(per_class(database, job_id)) <= 8


def test_stopping_leaves_an_event_with_the_reason(database: Database, ticked: Tick) -> None:
    job_id = dataset(database, each=8)
    stop_now(database, job_id)
    ticked()
    with database.read() as session:
        payloads = session.scalars(select(Event.payload).where(Event.type == "stopping")).all()
    assert payloads == [{"reason": "deadline"}]


def test_a_retry_has_the_budget_anew_and_no_deadline_that_has_passed(database: Database, ticked: Tick) -> None:
    job_id = dataset(database, each=8, budget_images=3)
    stop_now(database, job_id)
    ticked()
    with database.write() as session:
        retry = add_retry(session, session.get_one(Job, job_id))
        session.flush()
        assert (retry.budget_images, retry.deadline, retry.stop_reason) == (3, None, None)


def test_the_api_records_deadline_and_budget(api: httpx2.Client, database: Database) -> None:
    limits = {"deadline": "2999-01-01T00:00:00Z", "budget": {"images": 50, "worker_seconds": 9.5}}
    answer = api.post("/datasets", json={"classes": "digits", "images_per_class": 10} | limits)
    job = job_of(database, answer.json()["id"])
    assert job.deadline is not None
    assert (job.deadline.year, job.budget_images, job.budget_seconds) == (2999, 50, 9.5)


@pytest.mark.parametrize(
    ("limits", "pointer"),
    [
        ({"deadline": "2020-01-01T00:00:00Z"}, "/deadline"),
        ({"deadline": "2999-01-01T00:00:00"}, "/deadline"),
        ({"budget": {}}, "/budget"),
        ({"budget": {"images": 0}}, "/budget/images"),
        ({"budget": {"worker_seconds": -1}}, "/budget/worker_seconds"),
    ],
)
@pytest.mark.parametrize("query", ["", "?dry_run=true"])
def test_limits_that_cannot_be_kept_are_refused(
    api: httpx2.Client, limits: dict[str, object], pointer: str, query: str
) -> None:
    answer = api.post(f"/datasets{query}", json={"classes": "digits", "images_per_class": 10} | limits)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
