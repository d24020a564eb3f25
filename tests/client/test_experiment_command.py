"""`synthclone experiment`: a file of YAML, checked and estimated without a server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from client import Client
from client.experiment_file import read_experiment
from shared.database import Database
from shared.experiments import plan
from shared.schema import upgrade
from shared.settings import Settings
from tests.conftest import ServeApi

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:1"
SMALL = """\
name: small
classes: digits
grids:
  - prompts: [name, description]
    scales: [2]
    images_per_class: [1, 2]
real: [digits-train]
training: {architecture: test_resnet, steps: 1, flip: false}
seeds: [0, 1]
benchmarks: [digits]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def url(serve_api: ServeApi, lexicon_path: Path, tmp_path: Path) -> Iterator[str]:
    settings = Settings(data_dir=tmp_path, lexicon_path=lexicon_path)
    database = Database(settings.sqlalchemy_url)
    upgrade(database)
    yield str(serve_api(settings).base_url)
    database.engine.dispose()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SYNTHCLONE_")}
    command = [sys.executable, "-m", "client.main", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=kept | {"COLUMNS": "500"}
    )


def test_a_dry_run_without_a_server_lists_every_job_and_what_is_lacking(file: Path) -> None:
    file.write_text(SMALL.replace("[digits-train]", "[digits-train, my-photos]"))
    done = run("--api", NOWHERE, "experiment", str(file), "--dry-run", "--images-per-second", "2")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    kinds = [line[0] for line in lines[1:]]
    # Four datasets and two real sets with two seeds.
    assert [kinds.count(kind) for kind in ("draw", "train", "test")] == [4, 12, 12]
    assert "29 jobs with the report, 40 images, 0.01 GPU hours" in done.stdout
    assert "2 images per second (as given)" in done.stdout
    assert "real training set my-photos: to be registered" in done.stdout
    assert "real training set digits-train: there" in done.stdout


def test_a_dry_run_refuses_what_goes_beyond_the_budget(file: Path) -> None:
    file.write_text(SMALL + "budget: 39\n")
    done = run("--api", NOWHERE, "experiment", str(file), "--dry-run")
    assert (done.returncode, done.stdout) == (3, "")
    assert "would draw 40 images, its budget is 39" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "line", "named"),
    [
        ("scales: [2]", "scales: [2", 6, "not YAML"),
        ("name: small", "nam: small", 1, "nam: Extra inputs"),
        ("scales: [2]", "scales: [99]", 5, "grids.0.scales.0: Input should be less"),
        ("[name, description]", "[name, nosuch]", 4, "grids.0.prompts.1: unknown prompt 'nosuch'"),
        ("steps: 1", "stepz: 1", 8, "training.stepz: Extra inputs"),
        ("seeds: [0, 1]", "seeds: [0, 0]", 1, "the file: seeds names 0 twice"),
        ("benchmarks: [digits]", "", 1, "benchmarks: Field required"),
        ("scales: [2]", "scales: 2", 5, "grids.0.scales: Input should be a valid tuple"),
        ("classes: digits", "classes: 5", 2, "classes: Input should be a valid string"),
        ("  - prompts", "  - sizes: [1y]\n    prompts", 4, "grids.0.sizes.0: size '1y'"),
        ("steps: 1", "steps: 1, steps: !!python/name:os.system ''", 8, "not YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line_and_field(
    file: Path, old: str, new: str, line: int, named: str
) -> None:
    assert old in SMALL
    file.write_text(SMALL.replace(old, new))
    with pytest.raises(typer.BadParameter) as refused:
        read_experiment(file)
    told = refused.value.message.split("; ")
    assert any(part.startswith(f"{file}:{line}: ") and named in part for part in told), told


@pytest.mark.parametrize("content", [b"", b"- 1\n", b"\xff\xfe\x00", b"a: &a [*a]\n"])
def test_a_file_that_is_no_experiment_is_wrong_usage(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    done = run("--api", NOWHERE, "experiment", str(file))
    assert done.returncode == 2, done.stderr
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert run("experiment", str(tmp_path / "none.yaml")).returncode == 2


def test_an_experiment_is_submitted_with_all_its_jobs(file: Path, url: str) -> None:
    done = run("--api", url, "experiment", str(file))
    assert done.returncode == 0, done.stderr
    with Client(url) as client:
        found = client.experiments.get(done.stdout.strip())
        kinds = [job.kind for job in client.jobs.list()]
    assert [kinds.count(kind) for kind in ("dataset", "training", "evaluation", "experiment")] == [4, 10, 10, 1]
    assert found.stages["datasets"].total == 2 * (10 + 20)
    assert found.stages["trainings"].total == 10


def test_the_client_estimates_what_it_then_creates(file: Path, url: str) -> None:
    request = read_experiment(file)
    with Client(url) as client:
        estimated = client.experiments.estimate(request)
        assert list(client.jobs.list()) == []
        client.experiments.create(**request.model_dump(mode="json", exclude_unset=True))
        assert len(list(client.jobs.list())) == estimated.jobs


def test_watching_a_cancelled_experiment_exits_with_1(file: Path, url: str) -> None:
    with Client(url) as client:
        job = client.jobs.cancel(client.experiments.submit(read_experiment(file), idempotency_key="k").id)
    assert job.state == "cancelled"
    done = run("--api", url, "experiment", str(file), "--idempotency-key", "k", "--watch")
    assert (done.returncode, job.id in done.stderr) == (1, True), done.stderr
    assert run("--api", url, "--json", "usage").returncode == 0


@pytest.mark.parametrize(
    ("name", "images"),
    [("digits", 11 * 1257), ("in100_prompts", 520_000), ("in100_sizes", 6_500_000), ("in1k", 3_900_000)],
)
def test_the_examples_are_experiments_within_their_budgets(name: str, images: int) -> None:
    request = read_experiment(ROOT / f"experiments/{name}.yaml")
    assert plan(request, images_per_second=1).drawn_images == images
    assert request.budget is not None


def test_the_estimate_as_json_is_one_object(file: Path) -> None:
    done = run("--json", "experiment", str(file), "--dry-run")
    found = json.loads(done.stdout)
    assert (found["jobs"], found["drawn_images"], len(found["trainings"])) == (25, 40, 10)
