"""The consumer of evaluations and experiments, which it works on in its own process."""

import threading
from collections.abc import Sequence

from shared.vision.device import choose_device
from shared.vision.real.bucket import Bucket

from shared.database import Database
from shared.endings import Ending, ending_of
from shared.job_consumer import JobConsumer
from shared.job_leases import JobLease
from shared.settings import Settings
from shared.storage import open_store
from shared.stored.cache import ShardCache
from shared.tables import Job

from .evaluate import Place, evaluate
from .experiment import ending_of_experiment


def make_consumer(settings: Settings) -> JobConsumer:
    store = open_store(settings)
    bucket = Bucket(store, ShardCache(settings.cache_dir / "shards", min_free_bytes=settings.min_free_bytes))
    place = Place(
        Database(settings.sqlalchemy_url),
        store,
        choose_device(settings.device),
        settings.cache_dir / "realsets",
        settings.min_free_bytes,
        bucket,
    )

    def work(lease: JobLease, stop_events: Sequence[threading.Event]) -> Ending:
        if kind_of(place, lease) == "experiment":
            return ending_of_experiment(place, lease)
        try:
            return ending_of(lambda: evaluate(place, lease, stop_events))
        finally:
            bucket.cache.let_go()

    return JobConsumer(settings, "evaluate", work)


def kind_of(place: Place, lease: JobLease) -> str:
    with place.database.read() as session:
        return session.get_one(Job, lease.job_id).kind
