"""The shorter form of `make faults`: each kind of fault once, on one cluster, with less to draw."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres_server import find_programs
from tests.s3_servers import has_radosgw
from tests.tables import Report

from . import evaluations, objects, poison, processes, same, schema, servers, standalone, trainings, users
from .cluster import Cluster, cluster
from .run import HEAD, Row, cells, run, sweep, table
from .scene import Fault

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.redis]
IMAGES_PER_CLASS = 48
BESIDE_OTHER_TESTS_SECONDS = 60
"""How soon work goes on is judged by `make faults`, alone on a machine; here a killed process may start slowly."""
Judge = Callable[[Row], None]
KINDS: tuple[Fault, ...] = (
    *processes.KILLED,
    *processes.STOPPED[:1],
    *processes.TOLD_TO_GO[:1],
    users.FAULTS[0],
    *(servers.REDIS[0], servers.REDIS[4]),
    *(servers.POSTGRES[1], servers.POSTGRES[5]),
    *servers.S3[:3],
    *objects.FAULTS,
    poison.FAULTS[0],
    *schema.FAULTS,
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, lexicon_path: Path) -> Iterator[Cluster]:
    if find_programs() is None or shutil.which("redis-server") is None:
        pytest.skip("PostgreSQL's server or redis-server is not installed")
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def judge(report: Report) -> Judge:
    """Fails unless the row shows what was promised; all rows are printed at the end, those of failures too."""

    def look(row: Row) -> None:
        report("faults", HEAD, [cells(row)])
        assert row.problems == (), table([row])
        assert (row.lost, row.duplicated) == (0, 0)

    return look


@pytest.mark.parametrize("fault", KINDS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_nothing_is_lost_or_duplicated_under(parts: Cluster, fault: Fault, judge: Judge) -> None:
    smaller = fault._replace(
        images_per_class=min(fault.images_per_class, IMAGES_PER_CLASS),
        most_seconds=fault.most_seconds + BESIDE_OTHER_TESTS_SECONDS,
    )
    judge(run(parts, smaller, seed=hash_of(fault.name)))


@pytest.mark.parametrize("kill", [trainings.kill_trainer, evaluations.kill_evaluator])
def test_another_process_goes_on_after(parts: Cluster, kill: Callable[[Cluster, int], Row], judge: Judge) -> None:
    judge(kill(parts, 75))


@pytest.mark.skipif(processes.FAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.skipif(not has_radosgw(), reason="only radosgw, which is not installed, refuses a wrong clock")
def test_a_worker_whose_clock_the_store_refuses_pauses_and_says_so(parts: Cluster, judge: Judge) -> None:
    judge(run(parts, processes.REFUSED[0], seed=71))


def test_a_dataset_under_random_faults_is_the_one_built_in_peace(parts: Cluster, judge: Judge) -> None:
    judge(same.under_random_faults(parts, 74, images_per_class=16, pause_seconds=0.5))


def test_no_stray_object_is_left_by_all_those_faults(parts: Cluster) -> None:
    assert sweep(parts) == []


def test_sqlite_standalone_survives_kills_at_random(judge: Judge) -> None:
    judge(standalone.kill_at_random(72))


def test_workers_pause_while_the_disk_is_full(judge: Judge) -> None:
    if not standalone.can_mount():
        pytest.skip("this user may not mount a small file system")
    judge(standalone.fill_the_disk(73))


def hash_of(name: str) -> int:
    """A seed of the fault's own, the same in every run."""
    return sum(ord(letter) << (index % 24) for index, letter in enumerate(name))
