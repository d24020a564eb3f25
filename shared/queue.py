"""Celery as a doorbell: a message says "there is work" and carries nothing else (docs/decisions/0002)."""

from typing import Literal, get_args

from celery import Celery

from .errors import ConfigurationError
from .settings import Settings

Kind = Literal["generate", "train", "evaluate"]
KINDS: tuple[Kind, ...] = get_args(Kind)
JOB_KIND: dict[Kind, str] = {"generate": "dataset", "train": "training", "evaluate": "evaluation"}
MESSAGE_VERSION = 1


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
        broker_transport_options={
            "visibility_timeout": 900,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


def ring(app: Celery, kind: Kind) -> None:
    """Wake one worker of this kind up."""
    app.send_task(kind, kwargs={"version": MESSAGE_VERSION}, queue=kind, expires=120)
