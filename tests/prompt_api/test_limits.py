"""A team's limits hold in the transaction that makes the job, whoever asks at the same time."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx2
import pytest
from pydantic import JsonValue
from sqlalchemy import func, select, update

from shared import lifecycle
from shared.database import Database
from shared.settings import Settings
from shared.tables import IdempotencyKey, Job
from tests.conftest import ServeApi, changed
from tests.teams import PEPPER, as_team, limit

DIGITS: dict[str, JsonValue] = {"classes": "digits", "images_per_class": 2}


def jobs(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def make(api: httpx2.Client, **fields: JsonValue) -> httpx2.Response:
    return api.post("/datasets", json={**DIGITS, **fields})


def end(database: Database, job_id: str, state: str, **values: object) -> None:
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values or {"priority": 0}))
        assert lifecycle.transition(session, job_id, state)


def check_refused(answer: httpx2.Response, status: int, *named: str) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (status, "urn:synthclone:problem:limit-reached"), problem
    assert all(word in problem["detail"] for word in named), problem["detail"]


def test_one_job_more_than_may_live_waits_for_another_to_end(api: httpx2.Client, database: Database) -> None:
    limit(database, "default", max_live_jobs=2)
    first = make(api).json()["id"]
    assert api.post("/trainings", json={"datasets": [first]}).status_code == 202
    refused = make(api)
    check_refused(refused, 429, "has 2 jobs", "of 2 it may have", "teams set default --max-live-jobs")
    assert int(refused.headers["Retry-After"]) > 0
    end(database, first, "cancelled")
    assert make(api).status_code == 202


@pytest.mark.parametrize("route", ["/trainings", "/evaluations", "/datasets"])
def test_every_kind_of_job_counts_and_is_refused(api: httpx2.Client, database: Database, route: str) -> None:
    training = api.post("/trainings", json={"real": "digits-train"}).json()["id"]
    bodies: Mapping[str, JsonValue] = {
        "/trainings": {"real": "digits-train"},
        "/evaluations": {"training": training},
        "/datasets": DIGITS,
    }
    limit(database, "default", max_live_jobs=1)
    check_refused(api.post(route, json=bodies[route]), 429, "has 1 jobs")
    assert jobs(database) == 1


def test_requests_at_the_same_time_cannot_pass_the_limit_together(api: httpx2.Client, database: Database) -> None:
    limit(database, "default", max_live_jobs=3)
    with ThreadPoolExecutor(12) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: make(api), range(24))]
    assert (statuses.count(202), statuses.count(429)) == (3, 21)
    assert jobs(database) == 3


def test_requests_at_the_same_time_cannot_store_too_much_together(api: httpx2.Client, database: Database) -> None:
    each = make(api, images_per_class=2).json()["counts"]["total"] * bytes_per_image(api)
    limit(database, "default", max_stored_bytes=4 * each)
    with ThreadPoolExecutor(12) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: make(api), range(12))]
    assert (statuses.count(202), statuses.count(403)) == (3, 9)


def bytes_per_image(api: httpx2.Client) -> int:
    estimate = api.post("/datasets?dry_run=true", json={"classes": "digits", "images_per_class": 1}).json()
    return int(estimate["estimated_bytes"] // estimate["total_images"])


def test_a_dataset_larger_than_the_team_may_ask_for_is_refused(api: httpx2.Client, database: Database) -> None:
    limit(database, "default", max_images=20)
    assert make(api, images_per_class=2).status_code == 202
    check_refused(make(api, images_per_class=3), 403, "30 images", "20 in one", "--max-images")


def test_stored_and_promised_bytes_leave_less_room(api: httpx2.Client, database: Database) -> None:
    image = bytes_per_image(api)
    done = make(api, images_per_class=1).json()["id"]
    end(database, done, "cancelled", stored_bytes=7 * image)
    limit(database, "default", max_stored_bytes=27 * image)
    assert make(api, images_per_class=1).status_code == 202
    check_refused(make(api, images_per_class=2), 403, f"{7 * image:,} stored", f"{10 * image:,} under way")
    assert make(api, images_per_class=1).status_code == 202
    assert api.post("/trainings", json={"real": "digits-train"}).status_code == 202


def test_what_a_live_job_has_stored_is_not_promised_again(api: httpx2.Client, database: Database) -> None:
    image = bytes_per_image(api)
    job = make(api, images_per_class=2).json()["id"]
    end(database, job, "running", done=15, stored_bytes=15 * image)
    limit(database, "default", max_stored_bytes=30 * image)
    assert make(api, images_per_class=1).status_code == 202
    check_refused(make(api, images_per_class=1), 403, f"{15 * image:,} stored", f"{15 * image:,} under way")


def test_a_budget_bounds_what_a_dataset_can_store(api: httpx2.Client, database: Database) -> None:
    image = bytes_per_image(api)
    limit(database, "default", max_stored_bytes=20 * image)
    check_refused(make(api, images_per_class=3), 403, f"{30 * image:,} bytes")
    assert make(api, images_per_class=3, budget={"images": 12}).status_code == 202
    check_refused(make(api, images_per_class=1), 403, f"{12 * image:,} under way")
    assert make(api, images_per_class=1, budget={"images": 8}).status_code == 202


def test_a_retry_is_a_job_and_needs_room_for_what_is_missing(api: httpx2.Client, database: Database) -> None:
    image = bytes_per_image(api)
    old = make(api, images_per_class=2).json()["id"]
    end(database, old, "failed", done=15, stored_bytes=15 * image)
    limit(database, "default", max_stored_bytes=19 * image)
    check_refused(api.post(f"/jobs/{old}/retry"), 403, f"{5 * image:,} bytes")
    limit(database, "default", max_stored_bytes=20 * image, max_live_jobs=0)
    check_refused(api.post(f"/jobs/{old}/retry"), 429, "of 0 it may have")
    limit(database, "default", max_live_jobs=1)
    assert api.post(f"/jobs/{old}/retry").status_code == 202


def test_larger_images_are_promised_as_they_were_asked_for(api: httpx2.Client, database: Database) -> None:
    """The model card's images are 32 x 32, these have six times the pixels."""
    image = bytes_per_image(api)
    limit(database, "default", max_stored_bytes=79 * image)
    large = make(api, images_per_class=1, width=96, height=64)
    assert large.status_code == 202
    check_refused(make(api, images_per_class=2), 403, f"{60 * image:,} under way")
    end(database, large.json()["id"], "failed", done=5)
    limit(database, "default", max_stored_bytes=29 * image)
    check_refused(api.post(f"/jobs/{large.json()['id']}/retry"), 403, f"{30 * image:,} bytes")


def test_a_dry_run_is_refused_in_the_same_words(api: httpx2.Client, database: Database) -> None:
    limit(database, "default", max_images=19)
    real, dry = make(api), api.post("/datasets?dry_run=true", json=DIGITS)
    assert (dry.status_code, dry.json()) == (403, real.json())
    limit(database, "default", max_images=20)
    assert api.post("/datasets?dry_run=true", json=DIGITS).status_code == 200


def test_a_replayed_answer_is_not_refused(api: httpx2.Client, database: Database) -> None:
    limit(database, "default", max_live_jobs=1)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: api.post("/datasets", json=DIGITS, headers={"Idempotency-Key": "k"}), range(16))
        )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    check_refused(api.post("/datasets", json=DIGITS, headers={"Idempotency-Key": "other"}), 429)


def test_one_teams_limit_is_nothing_to_another(serve_api: ServeApi, api_settings: Settings, database: Database) -> None:
    closed = serve_api(changed(api_settings, auth="keys", key_pepper=PEPPER))
    limit(database, "ours", max_live_jobs=1)
    with as_team(closed, database, "ours") as ours, as_team(closed, database, "theirs") as theirs:
        assert [make(ours).status_code for _ in range(2)] == [202, 429]
        assert [make(theirs).status_code for _ in range(2)] == [202, 202]


def test_the_same_idempotency_key_of_another_team_is_another_key(
    serve_api: ServeApi, api_settings: Settings, database: Database
) -> None:
    closed = serve_api(changed(api_settings, auth="keys", key_pepper=PEPPER))
    key = {"Idempotency-Key": "the same"}
    with as_team(closed, database, "ours") as ours, as_team(closed, database, "theirs") as theirs:
        mine = ours.post("/datasets", json=DIGITS, headers=key)
        other = theirs.post("/datasets", json={**DIGITS, "scale": 3}, headers=key)
    assert (mine.status_code, other.status_code, mine.json()["id"] == other.json()["id"]) == (202, 202, False)
    assert "Idempotency-Replayed" not in other.headers


def test_an_idempotency_key_means_nothing_once_it_has_expired(
    api: httpx2.Client, database: Database, api_settings: Settings
) -> None:
    first = api.post("/datasets", json=DIGITS, headers={"Idempotency-Key": "old"}).json()["id"]
    lifetime = timedelta(hours=api_settings.idempotency_hours, seconds=1)
    with database.write() as session:
        row = session.scalars(select(IdempotencyKey)).one()
        row.created_at -= lifetime
    again = api.post("/datasets", json={**DIGITS, "scale": 3}, headers={"Idempotency-Key": "old"})
    assert (again.status_code, again.json()["id"] == first) == (202, False)
    replay = api.post("/datasets", json={**DIGITS, "scale": 3}, headers={"Idempotency-Key": "old"})
    assert replay.json() == again.json()
