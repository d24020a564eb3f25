"""The consumer of trainings; it never loads torch, the child process does."""

from functools import partial

from shared.disk import check_room
from shared.job_consumer import JobConsumer
from shared.settings import Settings

from .child import run_child


def make_consumer(settings: Settings) -> JobConsumer:
    has_room = partial(check_room, settings.cache_dir, min_free_bytes=settings.min_free_bytes)
    return JobConsumer(settings, "train", run_child, checks=[has_room])
