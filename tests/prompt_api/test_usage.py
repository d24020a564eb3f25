"""What a team's jobs have cost."""

from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from pydantic import JsonValue
from sqlalchemy import update

from shared.database import Database
from shared.settings import Settings
from shared.tables import Job
from tests.conftest import ServeApi, changed
from tests.rows import claim, plan_all
from tests.teams import PEPPER, as_team, limit

DIGITS: dict[str, JsonValue] = {"classes": "digits", "images_per_class": 2}
NOTHING = {"jobs": 0, "done": 0, "reused": 0, "drawn_images": 0, "worker_seconds": 0.0, "stored_bytes": 0}


def spend(database: Database, job_id: str, **values: object) -> None:
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def test_costs_are_added_up_by_kind(api: httpx2.Client, database: Database) -> None:
    for done, reused in ((12, 4), (20, 0)):
        job = api.post("/datasets", json=DIGITS).json()["id"]
        drawn = {"drawn_images": done - reused, "spent_seconds": 1.5, "stored_bytes": 1000}
        spend(database, job, done=done, reused=reused, **drawn)
    api.post("/trainings", json={"real": "digits-train"})
    usage = api.get("/usage").json()
    sums = {"jobs": 2, "done": 32, "reused": 4, "drawn_images": 28, "worker_seconds": 3.0, "stored_bytes": 2000}
    assert (usage["dataset"], usage["training"], usage["evaluation"]) == (sums, {**NOTHING, "jobs": 1}, NOTHING)


def test_a_job_shows_its_own_cost_and_why_it_stopped(api: httpx2.Client, database: Database) -> None:
    job = api.post("/datasets", json=DIGITS).json()["id"]
    until = datetime(2030, 1, 1, tzinfo=UTC)
    spend(database, job, drawn_images=3, spent_seconds=1.23456, stored_bytes=10, stop_reason="deadline", deadline=until)
    shown = api.get(f"/jobs/{job}").json()
    assert shown["cost"] == {"drawn_images": 3, "worker_seconds": 1.235, "stored_bytes": 10}
    assert (shown["stop_reason"], shown["deadline"]) == ("deadline", "2030-01-01T00:00:00Z")


def test_only_jobs_created_on_the_days_asked_for_count(api: httpx2.Client, database: Database) -> None:
    first, last = datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 3, 31, 23, 59, 59, tzinfo=UTC)
    for created in (first - timedelta(seconds=1), first, last, last + timedelta(seconds=1)):
        spend(database, api.post("/datasets", json=DIGITS).json()["id"], created_at=created)
    asked = api.get("/usage?since=2025-03-01&until=2025-03-31").json()
    assert (asked["dataset"]["jobs"], asked["since"], asked["until"]) == (2, "2025-03-01", "2025-03-31")
    assert api.get("/usage").json()["dataset"]["jobs"] == 0
    assert api.get("/usage?since=0001-01-01&until=9999-12-31").json()["dataset"]["jobs"] == 4


@pytest.mark.parametrize("query", ["since=yesterday", "since=2025-02-30", "since=2026-01-02&until=2026-01-01"])
def test_days_that_cannot_be_are_a_422(api: httpx2.Client, query: str) -> None:
    answer = api.get(f"/usage?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_limits_stand_beside_what_is_used_of_them(api: httpx2.Client, database: Database) -> None:
    limit(database, "default", weight=3, max_live_jobs=9, max_leased_shards=5, max_stored_bytes=10**6)
    job = api.post("/datasets", json=DIGITS).json()["id"]
    spend(database, api.post("/datasets", json={**DIGITS, "seed": 1}).json()["id"], stored_bytes=77, state="cancelled")
    plan_all(database, job)
    claim(database, limit=2)
    usage = api.get("/usage").json()
    assert (usage["team"], usage["weight"]) == ("default", 3)
    assert usage["limits"] == {
        "live_jobs": {"limit": 9, "used": 1},
        "images_of_one_dataset": {"limit": None, "used": None},
        "leased_shards": {"limit": 5, "used": 2},
        "stored_bytes": {"limit": 10**6, "used": 77},
    }


def test_another_teams_costs_are_not_shown(serve_api: ServeApi, api_settings: Settings, database: Database) -> None:
    closed = serve_api(changed(api_settings, auth="keys", key_pepper=PEPPER))
    with as_team(closed, database, "ours") as ours, as_team(closed, database, "theirs") as theirs:
        ours.post("/datasets", json=DIGITS)
        assert (ours.get("/usage").json()["dataset"]["jobs"], ours.get("/usage").json()["team"]) == (1, "ours")
        usage = theirs.get("/usage").json()
    assert (usage["dataset"], usage["limits"]["live_jobs"]["used"]) == (NOTHING, 0)
