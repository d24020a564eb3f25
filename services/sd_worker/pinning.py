"""One GPU for each of a Celery worker's children."""

import os

from billiard import current_process

from shared.gpus import VISIBLE, nth_gpu
from shared.settings import Settings

# A child that waits for the database is pinned again, after the first time has changed the variable.
AT_START = dict(os.environ)


def pinned(settings: Settings) -> Settings:
    """Child number n, from 0, sees the n-th GPU alone and answers /readyz n ports above the configured one.

    On the CPU it is given no GPU. To be called before torch is loaded, which looks at the variable once. Celery gives
    a child that replaces a dead one its number. Raises ConfigurationError where there are more children than GPUs
    shown.
    """
    number: int = current_process().index
    if settings.device != "cpu":
        os.environ[VISIBLE] = nth_gpu(number, AT_START)
    port = settings.worker_health_port
    return settings.model_copy(update={"worker_health_port": port + number if port else 0})
