from datetime import timedelta

from sqlalchemy import func, select, update

from services.dispatcher.retention import PAGE, expire_old
from shared.database import Database, database_now
from shared.settings import Settings
from shared.tables import Event, IdempotencyKey, Job, Webhook, WebhookDelivery
from tests.rows import add_dataset, end

SETTINGS = Settings(idempotency_hours=72, event_days=30)


def expire(database: Database) -> None:
    for _ in expire_old(database, SETTINGS):
        pass


def dataset(database: Database) -> str:
    with database.write() as session:
        return add_dataset(session, images={"a": 1}).id


def ended(database: Database, *, days_ago: float) -> str:
    """A dataset with one progress, one state and one verified event of the day it ended."""
    job_id = dataset(database)
    end(database, job_id, "succeeded")
    with database.write() as session:
        then = database_now(session) - timedelta(days=days_ago)
        session.add_all(Event(job_id=job_id, type=kind, payload={}, at=then) for kind in ("progress", "verified"))
        session.execute(update(Job).where(Job.id == job_id).values(finished_at=then))
        session.execute(update(Event).where(Event.job_id == job_id).values(at=then))
    return job_id


def kinds(database: Database, job_id: str) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Event.type).where(Event.job_id == job_id).order_by(Event.seq)))


def answer(database: Database, key: str, *, hours_ago: float) -> None:
    job_id = dataset(database)
    with database.write() as session:
        then = database_now(session) - timedelta(hours=hours_ago)
        names = {"team_id": "default", "route": "POST /datasets", "key": key, "job_id": job_id}
        session.add(IdempotencyKey(**names, request_sha256="", body={}, created_at=then))


def deliver(database: Database, job_id: str, **times: float | None) -> None:
    """A delivery, with the days since it was delivered or failed."""
    with database.write() as session:
        now = database_now(session)
        webhook = session.scalars(select(Webhook)).first() or Webhook(
            id="wh-1", team_id="default", url="https://example.org", created_at=now
        )
        session.add(webhook)
        session.flush()
        ends = {name: now - timedelta(days=days) for name, days in times.items() if days is not None}
        kind = ",".join(times) or "open"
        old = now - timedelta(days=60)
        row = {"webhook_id": webhook.id, "job_id": job_id, "payload": {}, "created_at": old, "next_at": old}
        session.add(WebhookDelivery(**row, type=kind, **ends))


def test_only_progress_of_jobs_that_ended_long_ago_is_dropped(database: Database) -> None:
    old, recent, live = ended(database, days_ago=31), ended(database, days_ago=29), dataset(database)
    with database.write() as session:
        then = database_now(session) - timedelta(days=90)
        session.add(Event(job_id=live, type="progress", payload={}, at=then))
    expire(database)
    assert kinds(database, old) == ["state", "verified"]
    assert kinds(database, recent) == ["state", "progress", "verified"]
    assert kinds(database, live) == ["progress"]


def test_progress_is_dropped_over_many_pages(database: Database) -> None:
    old = ended(database, days_ago=31)
    with database.write() as session:
        then = database_now(session) - timedelta(days=31)
        rows = [{"job_id": old, "type": "progress", "payload": {}, "at": then} for _ in range(2 * PAGE)]
        session.execute(Event.__table__.insert(), rows)
    steps = sum(1 for _ in expire_old(database, SETTINGS))
    assert kinds(database, old) == ["state", "verified"]
    assert steps >= 4


def test_answers_to_idempotency_keys_expire(database: Database) -> None:
    answer(database, "old", hours_ago=73)
    answer(database, "recent", hours_ago=71)
    expire(database)
    with database.read() as session:
        assert session.scalars(select(IdempotencyKey.key)).all() == ["recent"]


def test_deliveries_that_ended_long_ago_are_dropped_and_open_ones_stay(database: Database) -> None:
    job_id = dataset(database)
    deliver(database, job_id)
    deliver(database, job_id, delivered_at=31)
    deliver(database, job_id, failed_at=29)
    expire(database)
    with database.read() as session:
        assert session.scalars(select(WebhookDelivery.type).order_by(WebhookDelivery.id)).all() == ["open", "failed_at"]


def test_more_answers_than_one_batch_are_dropped(database: Database) -> None:
    job_id = dataset(database)
    with database.write() as session:
        then = database_now(session) - timedelta(hours=100)
        names = {"team_id": "default", "route": "r", "job_id": job_id, "request_sha256": "", "body": {}}
        rows = [{**names, "key": str(number), "created_at": then} for number in range(2500)]
        session.execute(IdempotencyKey.__table__.insert(), rows)
    expire(database)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 0
