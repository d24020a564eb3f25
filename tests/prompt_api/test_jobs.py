"""Watching and steering jobs."""

import json
import time
from datetime import timedelta

import httpx2
import pytest
from pydantic import JsonValue
from sqlalchemy import select, update

from shared import leases, lifecycle
from shared.database import Database, database_now
from shared.tables import TERMINAL, DatasetClass, Event, Job
from tests.rows import claim, plan_all, stored

DIGITS: dict[str, JsonValue] = {"classes": "digits", "images_per_class": 2}


@pytest.fixture
def dataset(api: httpx2.Client) -> str:
    return str(api.post("/datasets", json=DIGITS).json()["id"])


def draw(database: Database, job_id: str, *, classes: int, short: tuple[int, ...] = ()) -> None:
    """Commit the shards of so many classes, as a worker does."""
    plan_all(database, job_id)
    for lease in claim(database, limit=classes):
        with database.write() as session:
            leases.commit(session, lease, stored(lease, short=short))


def end(database: Database, job_id: str, state: str) -> None:
    with database.write() as session:
        assert lifecycle.transition(session, job_id, state)


def test_progress_counts_images_and_whole_classes(api: httpx2.Client, database: Database, dataset: str) -> None:
    draw(database, dataset, classes=3)
    job = api.get(f"/jobs/{dataset}").json()
    assert (job["state"], job["terminal"], job["progress"]) == ("running", False, 0.3)
    assert (job["counts"]["done"], job["classes"]) == (6, {"total": 10, "done": 3})


def move_first_progress(database: Database, *, before_last: timedelta) -> None:
    with database.write() as session:
        events = session.scalars(select(Event).where(Event.type == "progress").order_by(Event.seq)).all()
        events[0].at = events[-1].at - before_last


def test_the_rate_is_that_of_the_last_progress_events(api: httpx2.Client, database: Database, dataset: str) -> None:
    draw(database, dataset, classes=1)
    # Progress is told of once a second.
    move_first_progress(database, before_last=timedelta(minutes=1))
    draw(database, dataset, classes=1)
    move_first_progress(database, before_last=timedelta(seconds=1))
    job = api.get(f"/jobs/{dataset}").json()
    assert (job["rate"], job["eta_seconds"]) == (2.0, 8.0)


def test_the_classes_come_in_pages_with_their_progress(api: httpx2.Client, database: Database, dataset: str) -> None:
    draw(database, dataset, classes=1, short=(1,))
    first = api.get(f"/jobs/{dataset}/classes?limit=6").json()
    second = api.get(f"/jobs/{dataset}/classes?limit=6&cursor={first['next_cursor']}").json()
    assert [item["label"] for item in first["items"] + second["items"]] == list(range(10))
    assert second["next_cursor"] is None
    zero = {"label": 0, "id": "n13742358", "name": "zero", "total": 2, "done": 1, "failed": 1, "rejected": 1}
    assert first["items"][0] == zero


def test_an_etag_saves_the_body_until_something_changes(api: httpx2.Client, database: Database, dataset: str) -> None:
    etag = api.get(f"/jobs/{dataset}").headers["ETag"]
    same = api.get(f"/jobs/{dataset}", headers={"If-None-Match": f'"0", {etag}'})
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
    end(database, dataset, "running")
    assert api.get(f"/jobs/{dataset}", headers={"If-None-Match": etag}).status_code == 200


@pytest.mark.parametrize("state", TERMINAL)
def test_every_last_state_is_a_200_without_retry_after(
    api: httpx2.Client, database: Database, dataset: str, state: str
) -> None:
    assert api.get(f"/jobs/{dataset}").headers["Retry-After"] == "5"
    end(database, dataset, state)
    answer = api.get(f"/jobs/{dataset}")
    assert (answer.status_code, answer.json()["terminal"], answer.json()["state"]) == (200, True, state)
    assert "Retry-After" not in answer.headers
    assert ("retry" in answer.json()["links"]) == (state != "succeeded")


def test_a_failed_job_says_why(api: httpx2.Client, database: Database, dataset: str) -> None:
    with database.write() as session:
        lifecycle.transition(session, dataset, "failed", error=lifecycle.failure("x", "why", retryable=True))
    assert api.get(f"/jobs/{dataset}").json()["error"] == {
        "type": "urn:synthclone:problem:x",
        "detail": "why",
        "retryable": True,
    }


def test_pages_list_every_job_once_newest_first_over_all_kinds(api: httpx2.Client) -> None:
    made = []
    for _ in range(3):
        made.append(api.post("/datasets", json=DIGITS).json()["id"])
        made.append(api.post("/trainings", json={"real": "digits-train"}).json()["id"])
    found, cursor = [], None
    while cursor is not None or not found:
        page = api.get("/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        found += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
    assert found == made[::-1]


def test_jobs_are_filtered_by_kind_and_state(api: httpx2.Client, database: Database, dataset: str) -> None:
    api.post("/trainings", json={"real": "digits-train"})
    other = api.post("/datasets", json=DIGITS).json()["id"]
    end(database, other, "cancelled")
    listed = api.get("/jobs?kind=dataset&state=queued").json()["items"]
    assert [job["id"] for job in listed] == [dataset]


def test_cancelling_marks_a_dataset_and_ends_a_queued_training_at_once(api: httpx2.Client, dataset: str) -> None:
    answer = api.post(f"/jobs/{dataset}/cancel")
    assert (answer.status_code, answer.json()["cancel_requested"], answer.json()["state"]) == (202, True, "queued")
    training = api.post("/trainings", json={"real": "digits-train"}).json()["id"]
    assert api.post(f"/jobs/{training}/cancel").json()["state"] == "cancelled"


def test_a_retried_dataset_copies_spec_and_texts_and_starts_from_nothing(
    api: httpx2.Client, database: Database, dataset: str
) -> None:
    draw(database, dataset, classes=2)
    with database.write() as session:
        # As if the lexicon had changed since: the old rows' words are what a retry must keep.
        session.execute(update(DatasetClass).where(DatasetClass.position == 0).values(class_key="n13742358-old"))
    end(database, dataset, "failed")
    answer = api.post(f"/jobs/{dataset}/retry")
    new = answer.json()["id"]
    assert (answer.status_code, answer.headers["Location"], new != dataset) == (202, f"/jobs/{new}", True)
    assert answer.json()["counts"]["done"] == 0
    assert answer.json()["links"]["retry_of"] == f"/jobs/{dataset}"
    with database.read() as session:
        row = session.get_one(DatasetClass, (new, 0))
        assert (row.class_key, row.total, row.done, row.planned) == ("n13742358-old", 2, 0, 0)
        assert session.get_one(Job, new).spec == session.get_one(Job, dataset).spec
        event = session.scalars(select(Event).where(Event.job_id == new)).one()
    assert event.payload == {"state": "queued", "retry_of": dataset}


def test_a_retry_with_the_same_key_is_one_retry(api: httpx2.Client, database: Database, dataset: str) -> None:
    end(database, dataset, "failed")
    headers = {"Idempotency-Key": "again"}
    answers = [api.post(f"/jobs/{dataset}/retry", headers=headers).json()["id"] for _ in range(2)]
    assert answers[0] == answers[1]


def events_of(text: str) -> list[dict[str, str]]:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def test_the_event_stream_tells_everything_and_ends_with_the_job(
    api: httpx2.Client, database: Database, dataset: str
) -> None:
    draw(database, dataset, classes=1)
    end(database, dataset, "failed")
    answer = api.get(f"/jobs/{dataset}/events")
    events = events_of(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [event["event"] for event in events] == ["state", "state", "progress", "state"]
    assert json.loads(events[2]["data"]) == {"done": 2, "failed": 0, "total": 20}
    assert json.loads(events[-1]["data"]) == {"state": "failed"}


def test_an_event_stream_resumes_after_the_last_event_seen(
    api: httpx2.Client, database: Database, dataset: str
) -> None:
    end(database, dataset, "running")
    end(database, dataset, "failed")
    events = events_of(api.get(f"/jobs/{dataset}/events").text)
    resumed = events_of(api.get(f"/jobs/{dataset}/events", headers={"Last-Event-ID": events[1]["id"]}).text)
    assert resumed == events[2:]
    assert api.get(f"/jobs/{dataset}/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_an_event_arrives_while_the_stream_is_open(api: httpx2.Client, database: Database, dataset: str) -> None:
    with api.stream("GET", f"/jobs/{dataset}/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: state"
        end(database, dataset, "cancelled")
        started = time.monotonic()
        rest = list(lines)
    assert any("cancelled" in line for line in rest)
    assert time.monotonic() - started < 3


def test_the_database_clock_stamps_a_job(api: httpx2.Client, database: Database, dataset: str) -> None:
    with database.read() as session:
        assert timedelta() <= database_now(session) - session.get_one(Job, dataset).created_at < timedelta(seconds=30)
