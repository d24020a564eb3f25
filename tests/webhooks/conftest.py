"""A receiver, and jobs and webhooks of the default team."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.database import Database, database_now
from shared.ids import new_id
from shared.tables import Webhook
from tests.rows import add_job, end
from tests.webhooks.receiver import Receiver, receiving

AddWebhook = Callable[[str], str]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as receiver:
        yield receiver


@pytest.fixture
def add_webhook(database: Database) -> AddWebhook:
    """Stores a webhook with this URL and returns its id."""

    def add(url: str) -> str:
        with database.write() as session:
            webhook = Webhook(id=new_id("wh"), team_id="default", url=url, created_at=database_now(session))
            session.add(webhook)
        return webhook.id

    return add


@pytest.fixture
def end_job(database: Database) -> Callable[[], str]:
    """Cancels a new training, which leaves a message for each webhook, and returns its id."""

    def cancel() -> str:
        with database.write() as session:
            job = add_job(session, "training")
        end(database, job.id, "cancelled")
        return job.id

    return cancel
