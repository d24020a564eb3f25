"""Which services run on this machine, and with which variables."""

from collections.abc import Iterator, Mapping, Sequence

from shared.gpus import VISIBLE, are_hidden, count_gpus, nth_gpu
from shared.settings import Settings

from .supervisor import Service

GENERATOR = "services.sd_worker"
OTHERS = ("services.prompt_api", "services.dispatcher", "services.trainer", "services.evaluator")
# Started only where webhooks may go somewhere.
SENDER = "services.webhooks"


def make_roster(settings: Settings, environment: Mapping[str, str], *, gpus: int) -> list[Service]:
    """One generating worker for each GPU, which sees no other; one alone where there is none."""
    modules = (*OTHERS, SENDER) if settings.webhook_hosts else OTHERS
    return [*(Service(module, environment) for module in modules), *generators(settings, environment, gpus=gpus)]


def generators(settings: Settings, environment: Mapping[str, str], *, gpus: int) -> Iterator[Service]:
    if gpus == 0:
        yield Service(GENERATOR, environment)
    for number in range(gpus):
        own = {VISIBLE: nth_gpu(number, environment), **own_health_port(settings, number)}
        yield Service(GENERATOR, {**environment, **own})


def own_health_port(settings: Settings, number: int) -> dict[str, str]:
    """Workers of one machine answer on the ports from the configured one on."""
    port = settings.worker_health_port
    return {"SYNTHCLONE_WORKER_HEALTH_PORT": str(port + number)} if port else {}


def count_usable_gpus(settings: Settings, environment: Mapping[str, str], *, files: Sequence[str]) -> int:
    """`files` are those of a GPU's driver: without any, torch need not be asked."""
    if settings.device == "cpu" or are_hidden(environment) or not files:
        return 0
    return count_gpus(environment)
