"""The consumer of evaluations, which it works on in its own process."""

from shared.vision.device import choose_device

from shared.database import Database
from shared.endings import ending_of
from shared.job_consumer import JobConsumer
from shared.settings import Settings
from shared.storage import open_store

from .evaluate import Place, evaluate


def make_consumer(settings: Settings) -> JobConsumer:
    place = Place(Database(settings.sqlalchemy_url), open_store(settings), choose_device(settings.device))
    return JobConsumer(
        settings, "evaluate", lambda lease, stop_events: ending_of(lambda: evaluate(place, lease, stop_events))
    )
