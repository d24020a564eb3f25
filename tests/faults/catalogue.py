"""Every fault of the suite, by the machine it runs on."""

from collections.abc import Callable
from typing import NamedTuple

from tests.s3_servers import has_radosgw

from . import evaluations, objects, poison, processes, same, schema, servers, standalone, trainings, users
from .cluster import Cluster
from .run import Row, run
from .scene import Fault


def nothing() -> str:
    """Runs wherever the suite does."""
    return ""


def faketime() -> str:
    return "" if processes.FAKETIME else "libfaketime is not installed"


def strict_clock() -> str:
    return faketime() or ("" if has_radosgw() else "Ceph's radosgw, which refuses a wrong clock, is not installed")


def mount() -> str:
    return "" if standalone.can_mount() else "this user may not mount a small file system"


class Trial(NamedTuple):
    """`run` is given a seed; `missing` says why this machine cannot show it, or nothing."""

    name: str
    run: Callable[[Cluster, int], Row]
    missing: Callable[[], str] = nothing


class Alone(NamedTuple):
    """The same for what needs no cluster."""

    name: str
    run: Callable[[int], Row]
    missing: Callable[[], str] = nothing


def trial(fault: Fault, missing: Callable[[], str] = nothing) -> Trial:
    return Trial(fault.name, lambda cluster, seed: run(cluster, fault, seed=seed), missing)


FAULTS = (
    *processes.FAULTS,
    *users.FAULTS,
    *servers.FAULTS,
    *objects.FAULTS,
    *poison.FAULTS,
    *schema.FAULTS,
)
# An S3 server that checks signatures, and so clocks.
STRICT = (
    *(trial(fault) for fault in FAULTS),
    *(trial(fault, strict_clock) for fault in processes.REFUSED),
    Trial("kill -9 of a trainer", trainings.kill_trainer),
    Trial("kill -9 of an evaluator", evaluations.kill_evaluator),
)
# An S3 server that does not; and more attempts than random faults use up.
LENIENT = (
    *(trial(fault, faketime) for fault in processes.CLOCKS),
    Trial("random faults", same.under_random_faults),
    Trial("random faults, model digits-sd", same.demo_model_under_random_faults),
)
ALONE = (
    Alone("SQLite standalone: kill -9 at random", standalone.kill_at_random),
    Alone("disk full on the workers", standalone.fill_the_disk, mount),
)
