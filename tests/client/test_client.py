"""The Python client against the real API over a real socket."""

import threading
import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr, ValidationError

from client import ApiRefused, Client, JobFailed, WaitTimeout
from services.prompt_api.keys import create_key
from shared import lifecycle
from shared.database import Database
from shared.settings import Settings
from shared.specs import DatasetRequest
from tests.conftest import ServeApi


@pytest.fixture
def client(api_url: str, database: Database) -> Iterator[Client]:
    with Client(api_url) as client:
        yield client


def end(database: Database, job_id: str, *states: str, error: str | None = None) -> None:
    for state in states:
        reason = lifecycle.failure("test", error, retryable=False) if error else None
        with database.write() as session:
            assert lifecycle.transition(session, job_id, state, error=reason)


def test_created_dataset_is_spelled_out_in_words(client: Client) -> None:
    job = client.datasets.create(classes="digits", prompt="description", scale=2, images_per_class=32)
    assert (job.state, job.counts.total) == ("queued", 320)
    assert "320 images in all" in job.summary
    assert "guidance scale 2.0" in job.summary


def test_dataset_has_its_classes_in_label_order(client: Client) -> None:
    job = client.datasets.create(classes="digits", images_per_class=1)
    dataset = client.datasets.get(job.id)
    assert [known.names[0] for known in dataset.classes][:2] == ["zero", "one"]
    assert list(client.datasets.shards(job.id)) == []


def test_refused_request_raises_the_problem_that_names_the_value(client: Client) -> None:
    with pytest.raises(ApiRefused, match="in2k") as raised:
        client.datasets.create(classes="in2k")
    assert raised.value.problem.status == 422
    assert raised.value.exit_code == 3


def test_field_that_no_request_has_is_told_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(ValidationError, match="guidance"):
        client.datasets.create(classes="digits", guidance=2)


def test_same_idempotency_key_gives_the_same_job(client: Client) -> None:
    first = client.datasets.create(classes="digits", images_per_class=1, idempotency_key="once")
    second = client.datasets.create(classes="digits", images_per_class=1, idempotency_key="once")
    assert first.id == second.id


def test_jobs_without_a_key_are_never_the_same(client: Client) -> None:
    first = client.datasets.create(classes="digits", images_per_class=1)
    assert client.datasets.create(classes="digits", images_per_class=1).id != first.id


def test_estimate_creates_nothing(client: Client) -> None:
    estimate = client.datasets.estimate(DatasetRequest(classes="digits", images_per_class=7))
    assert estimate.total_images == 70
    assert list(client.jobs.list()) == []


def test_listing_goes_through_every_page_newest_first(client: Client) -> None:
    ids = [client.datasets.create(classes="digits", images_per_class=1).id for _ in range(51)]
    assert [job.id for job in client.jobs.list()] == ids[::-1]


def test_listing_can_ask_for_one_state(client: Client) -> None:
    kept = client.datasets.create(classes="digits", images_per_class=1)
    client.datasets.create(classes="digits", images_per_class=2)
    client.jobs.cancel(client.trainings.create(real="digits-train", steps=1).id)
    assert [job.kind for job in client.jobs.list(state="cancelled")] == ["training"]
    assert kept.id in {job.id for job in client.jobs.list(state="queued", kind="dataset")}


def test_training_waits_for_its_dataset_and_the_test_for_the_training(client: Client) -> None:
    dataset = client.datasets.create(classes="digits", images_per_class=1)
    training = client.trainings.create(datasets=[dataset.id], architecture="test_resnet", steps=3)
    test = client.evaluations.create(training=training.id, benchmarks=["digits"])
    assert (training.state, test.state) == ("waiting", "waiting")
    assert client.trainings.get(training.id).trained_on == dataset.id
    assert client.evaluations.get(test.id).result is None


def test_cancelled_job_can_be_asked_for_again(client: Client) -> None:
    old = client.trainings.create(real="digits-train", steps=1)
    assert client.jobs.cancel(old.id).state == "cancelled"
    new = client.jobs.retry(old.id)
    assert (new.id != old.id, new.state) == (True, "queued")


def test_wait_returns_the_job_once_it_ended_well(client: Client, database: Database) -> None:
    job = client.trainings.create(real="digits-train", steps=1)
    later = threading.Timer(0.4, end, (database, job.id, "running", "succeeded"))
    later.start()
    assert client.jobs.wait(job.id, timeout_seconds=20).state == "succeeded"
    later.join()


def test_wait_raises_what_made_the_job_fail(client: Client, database: Database) -> None:
    job = client.trainings.create(real="digits-train", steps=1)
    end(database, job.id, "failed", error="no network called resnet5")
    with pytest.raises(JobFailed, match="resnet5") as raised:
        client.jobs.wait(job.id)
    assert raised.value.problem.type == "urn:synthclone:problem:test"


def test_wait_gives_up_after_its_time_and_leaves_the_job_alone(client: Client) -> None:
    job = client.trainings.create(real="digits-train", steps=1)
    started = time.monotonic()
    with pytest.raises(WaitTimeout, match=job.id):
        client.jobs.wait(job.id, timeout_seconds=0.3)
    assert time.monotonic() - started < 5
    assert client.jobs.get(job.id).state == "queued"


def test_events_end_with_the_job_and_resume_after_a_number(client: Client, database: Database) -> None:
    job = client.trainings.create(real="digits-train", steps=1)
    end(database, job.id, "running", "succeeded")
    events = list(client.jobs.events(job.id))
    assert [event.payload["state"] for event in events] == ["queued", "running", "succeeded"]
    assert list(client.jobs.events(job.id, after=events[0].seq)) == events[1:]


def test_events_are_waited_for_no_longer_than_asked(client: Client) -> None:
    job = client.trainings.create(real="digits-train", steps=1)
    events = client.jobs.events(job.id, timeout_seconds=0.5)
    assert next(events).payload == {"state": "queued"}
    started = time.monotonic()
    with pytest.raises(WaitTimeout, match="still queued"):
        list(events)
    assert time.monotonic() - started < 5


def test_events_of_an_unknown_job_are_refused(client: Client) -> None:
    with pytest.raises(ApiRefused, match="ds-none"):
        list(client.jobs.events("ds-none"))


def test_preview_shows_the_prompts_of_the_first_slots(client: Client) -> None:
    preview = client.prompts.preview(classes="digits", prompt={"template": "a {name}"}, slots=2, limit=1)
    assert [shown.text for shown in preview.items[0].prompts] == ["a zero", "a zero"]
    assert preview.classes == 10


def test_real_sets_tell_what_they_may_be_used_for(client: Client) -> None:
    assert {known.name: (known.role, known.images) for known in client.testsets.list()} == {
        "digits-train": ("train", 1257),
        "digits": ("test", 540),
    }
    assert len(client.testsets.get("digits").class_ids) == 10


def test_class_lists_tell_their_sizes(client: Client) -> None:
    assert {known.name: known.classes for known in client.class_lists()} == {"in1k": 1000, "in100": 100, "digits": 10}


def test_token_is_sent_and_its_absence_refused(
    database: Database, api_settings: Settings, serve_api: ServeApi, pepper: SecretStr
) -> None:
    url = str(serve_api(api_settings.model_copy(update={"auth": "keys", "key_pepper": pepper})).base_url)
    with database.write() as session:
        key = create_key(session, "default", pepper=pepper)
    with Client(url, key) as allowed, Client(url) as unknown:
        assert list(allowed.jobs.list()) == []
        with pytest.raises(ApiRefused, match="API key"):
            list(unknown.jobs.list())
