"""The consumer of trainings and probes; it never loads torch, the child process does."""

import threading
from collections.abc import Sequence
from functools import partial

from shared.database import Database
from shared.disk import check_room
from shared.endings import Ending
from shared.errors import ConfigurationError
from shared.job_consumer import JobConsumer
from shared.job_leases import JobLease
from shared.settings import Settings
from shared.tables import Job

from .child import run_child

MODULES = {"training": "services.trainer.launch", "probe": "services.trainer.probe"}


def make_consumer(settings: Settings) -> JobConsumer:
    """Raises ConfigurationError on a node that is to follow another."""
    if settings.trainer_node_rank:
        raise ConfigurationError(
            f"node {settings.trainer_node_rank} of several claims no trainings; run `python -m services.trainer.follow`"
        )
    database = Database(settings.sqlalchemy_url)
    has_room = partial(check_room, settings.cache_dir, min_free_bytes=settings.min_free_bytes)

    def work(lease: JobLease, stop_events: Sequence[threading.Event]) -> Ending:
        return run_child(lease, stop_events, module=MODULES[kind_of(database, lease)])

    return JobConsumer(settings, "train", work, checks=[has_room])


def kind_of(database: Database, lease: JobLease) -> str:
    with database.read() as session:
        return session.get_one(Job, lease.job_id).kind
