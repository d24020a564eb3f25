"""Celery as a doorbell: a message says "there is work" and carries nothing else (docs/decisions/0002)."""

from typing import Literal, get_args

from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError as BrokerError

from .errors import ConfigurationError
from .settings import Settings

Kind = Literal["generate", "train", "evaluate"]
KINDS: tuple[Kind, ...] = get_args(Kind)
JOB_KINDS: dict[Kind, tuple[str, ...]] = {
    "generate": ("dataset",),
    "train": ("training", "probe"),
    "evaluate": ("evaluation", "experiment"),
}
MESSAGE_VERSION = 1
# A dispatcher that rings and a worker's own commands must find out within seconds that the link is dead.
TRANSPORT_OPTIONS: dict[str, object] = {
    "visibility_timeout": 900,
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
}


def celery_app(settings: Settings) -> Celery:
    """The broker settings that survived fault trials; recovery is the lease's work, never the broker's."""
    if settings.redis_url is None:
        raise ConfigurationError("set SYNTHCLONE_REDIS_URL to run Celery, or run the worker module to poll instead")
    app = Celery("synthclone", broker=settings.redis_url)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_pool="prefork",
        worker_pool_start_method="spawn",  # a forked child could not use CUDA
        # A child loads torch and checks gigabytes of weights first; Celery's four seconds would kill it for ever.
        worker_proc_alive_timeout=600,
        # Remote control off together with heartbeats off leaves a worker deaf after a Redis restart.
        worker_enable_remote_control=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,  # our log handler writes to stderr: redirected into logging it would loop
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=0,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=TRANSPORT_OPTIONS,
    )
    return app


def load_bell(app: Celery) -> None:
    """Import what Celery would import at the first ring: a leader must not stop for that in the middle of a tick."""
    app.finalize()
    app.connection_for_write().transport  # noqa: B018  the transport's module; nothing is connected
    app.events.Dispatcher  # noqa: B018


def ring(app: Celery, kind: Kind) -> None:
    """Wake one worker of this kind up.

    Without an expiry: it would be the ringer's clock against the worker's, and one that is wrong would be deaf.
    """
    app.send_task(kind, kwargs={"version": MESSAGE_VERSION}, queue=kind)


def broker_answers(url: str) -> bool:
    """Whether a new connection to the broker works now."""
    connection = Connection(url, transport_options=TRANSPORT_OPTIONS)
    try:
        connection.ensure_connection(max_retries=1, timeout=5)
    except BrokerError:
        return False
    finally:
        connection.release()
    return True
