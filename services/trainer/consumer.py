"""The consumer of trainings; it never loads torch, the child process does."""

from shared.job_consumer import JobConsumer
from shared.settings import Settings

from .child import run_child


def make_consumer(settings: Settings) -> JobConsumer:
    return JobConsumer(settings, "train", run_child)
