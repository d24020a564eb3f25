"""One training on two machines, here two folders of one machine that share a database and objects."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from services.trainer.child import read_ending
from services.trainer.consumer import make_consumer
from services.trainer.launch import launcher_command
from shared.database import Database
from shared.errors import ConfigurationError
from shared.job_leases import finish_job
from shared.settings import Settings
from shared.storage import LocalStore
from shared.tables import Job

from .rows import Shard, add_dataset, add_training, claim, flat, read_job, tiny_request

Process = subprocess.Popen[bytes]
Start = Callable[[int], Process]
MODULES = ("services.trainer", "services.trainer.follow")


def add(database: Database, store: LocalStore, **fields: object) -> str:
    """Of a network without batch statistics, which ranks keep apart on CPUs."""
    shards = [Shard("a", [flat(level) for level in range(0, 96, 8)], 12), Shard("b", [flat(200)] * 12, 12)]
    dataset = add_dataset(database, store, shards)
    values = {"architecture": "test_vit", "optimizer": "sgd", "learning_rate": 0.1} | fields
    request = tiny_request(real=None, datasets=(dataset,), **values)
    return add_training(database, request, class_ids=("a", "b"))


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts the node of this rank; all are killed in the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        rendezvous = f"127.0.0.1:{free.getsockname()[1]}"
    running: list[Process] = []

    def start_node(rank: int) -> Process:
        folder = tmp_path / f"node{rank}"
        folder.mkdir(exist_ok=True)
        if not (folder / "objects").is_symlink():
            (folder / "objects").symlink_to(settings.objects_dir)
        of_node = {
            "DATA_DIR": str(folder),
            "DATABASE_URL": settings.sqlalchemy_url,
            "TRAINER_NODES": "2",
            "TRAINER_NODE_RANK": str(rank),
            "RENDEZVOUS": rendezvous,
            "MAX_ATTEMPTS": "5",
            "LEASE_SECONDS": "10",
        }
        environment = os.environ | {f"SYNTHCLONE_{name}": value for name, value in of_node.items()}
        running.append(subprocess.Popen([sys.executable, "-m", MODULES[rank]], env=environment))
        return running[-1]

    yield start_node
    for process in running:
        kill_tree(process)


def kill_tree(process: Process) -> None:
    """As when a machine dies."""
    for pid in (process.pid, *descendants(process.pid)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for file in files for child in file.read_text().split()]
    return children + [each for child in children for each in descendants(child)]


def wait_for(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def ended(database: Database, row: str) -> Job:
    wait_for(lambda: read_job(database, row).state not in ("queued", "running"))
    return read_job(database, row)


def weights(store: LocalStore, job: Job) -> dict[str, torch.Tensor]:
    assert job.result is not None, job.error
    loaded: dict[str, torch.Tensor] = load(store.get(str(job.result["encoder_key"])))
    return loaded


def train_here(database: Database, store: LocalStore, folder: Path, **fields: object) -> dict[str, torch.Tensor]:
    """By two processes on one node."""
    row = add(database, store, **fields)
    lease = claim(database)
    subprocess.run(launcher_command(2, [row, str(lease.fence), str(folder)]), check=True, timeout=240)
    ending = read_ending(folder)
    assert ending is not None
    assert ending.result is not None
    with database.write() as session:
        finish_job(session, lease, ending.result)
    return weights(store, read_job(database, row))


def assert_close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def step_of(database: Database, row: str) -> int:
    """Of the checkpoint; 0 while there is none."""
    return int(str((read_job(database, row).checkpoint or {"step": 0})["step"]))


def wait_for_checkpoint_after(step: int, database: Database, row: str) -> None:
    wait_for(lambda: step_of(database, row) > step)


@pytest.mark.slow
def test_two_nodes_train_what_two_processes_would_though_one_dies_and_is_told_to_go(
    database: Database, store: LocalStore, start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one test, for every start of two nodes takes ten seconds and more."""
    fields = {"steps": 200, "checkpoint_steps": 20}
    expected = train_here(database, store, tmp_path, **fields)
    nodes = [start(rank) for rank in (0, 1)]
    row = add(database, store, **fields)
    wait_for_checkpoint_after(0, database, row)
    kill_tree(nodes[1])
    wait_for(lambda: read_job(database, row).attempts == 2)
    committed = step_of(database, row)
    capfd.readouterr()
    nodes[1] = start(1)
    wait_for_checkpoint_after(committed, database, row)
    assert f"from_step={committed} " in capfd.readouterr().err
    nodes[1].terminate()
    assert nodes[1].wait(60) == 0
    wait_for(lambda: read_job(database, row).state == "queued" or read_job(database, row).fence > 2)
    nodes[1] = start(1)

    job = ended(database, row)

    assert (job.state, job.attempts) == ("succeeded", 2)
    assert_close(weights(store, job), expected)
    # Each node keeps the shards on a disk of its own.
    assert [len(list((tmp_path / f"node{rank}/cache/shards").rglob("*.tar"))) for rank in (0, 1)] == [2, 2]
    for node in nodes:
        node.terminate()
    assert [node.wait(30) for node in nodes] == [0, 0]


@pytest.mark.slow
def test_what_keeps_one_rank_from_its_work_is_raised_on_all(tmp_path: Path) -> None:
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path / "meet")]) for rank in (0, 1)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]


RANK = """
import sys, torch, torch.distributed as dist
from services.trainer.ranks import Ranks
from services.trainer.run import together
from shared.errors import BeingRedrawn
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
ranks = Ranks(rank, 2, torch.device("cpu"), local_rank=0, neighbours=1, waiting=dist.new_group(backend="gloo"))
assert together(ranks, lambda: rank + 5) == rank + 5
def damaged():
    if rank == 1:
        raise BeingRedrawn("shard a is being drawn again")
    return 1
try:
    together(ranks, damaged)
except BeingRedrawn as problem:
    assert problem.detail == "shard a is being drawn again" + ("" if rank else " (on rank 1)"), problem.detail
else:
    sys.exit(3)
finally:
    dist.destroy_process_group()  # without it gloo's threads now and then abort the process as it ends
"""


def test_a_node_that_follows_never_claims() -> None:
    settings = Settings(trainer_nodes=2, trainer_node_rank=1, rendezvous="trainer-0:29400")
    with pytest.raises(ConfigurationError, match=r"node 1 of several claims no trainings; run `python -m services"):
        make_consumer(settings)


@pytest.mark.parametrize("address", ["trainer-0", ":29400", "trainer-0:http"])
def test_a_rendezvous_without_host_and_port_is_refused(address: str) -> None:
    settings = Settings(trainer_nodes=2, rendezvous=address)
    with pytest.raises(ConfigurationError, match=r"is not host:port, such as trainer-0:29400"):
        _ = settings.rendezvous_address


def test_nodes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="trainer_nodes=2 needs rendezvous"):
        Settings(trainer_nodes=2)
    with pytest.raises(ValueError, match="trainer_node_rank 2 is not below trainer_nodes 2"):
        Settings(trainer_nodes=2, trainer_node_rank=2, rendezvous="trainer-0:29400")
