"""`synthclone report` and `synthclone eval --compare-with`: what was found out, in a folder."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from client import Client
from shared import lifecycle
from shared.database import Database
from shared.schema import upgrade
from shared.settings import Settings
from shared.storage import LocalStore, open_store
from shared.tables import Job, JsonObject
from tests.conftest import ServeApi

from .test_command_line import TRAIN, Place, run, submitted

EXPERIMENT: dict[str, object] = {
    "name": "digits",
    "classes": "digits",
    "real": ["digits-train"],
    "training": {"steps": 1},
    "benchmarks": ["digits"],
}
FILES = {"report": b'{"benchmarks": []}', "report.md": b"# r", "bars.png": b"\x89PNG"}


@pytest.fixture
def place(serve_api: ServeApi, lexicon_path: Path, tmp_path: Path) -> Iterator[Place]:
    settings = Settings(data_dir=tmp_path, lexicon_path=lexicon_path)
    database = Database(settings.sqlalchemy_url)
    upgrade(database)
    yield Place(str(serve_api(settings).base_url), database)
    database.engine.dispose()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    found = open_store(Settings(data_dir=tmp_path))
    assert isinstance(found, LocalStore)
    return found


def succeed(place: Place, store: LocalStore, job_id: str) -> None:
    result: JsonObject = {}
    for name, data in FILES.items():
        store.put(f"reports/{job_id}/{name}", data)
        result |= {f"{name}_key": f"reports/{job_id}/{name}", f"{name}_sha256": sha256(data).hexdigest()}
    with place.database.write() as session:
        session.get_one(Job, job_id).result = result
        session.flush()
        for state in ("queued", "running", "succeeded"):
            lifecycle.transition(session, job_id, state)


def test_the_report_of_an_evaluation_is_written_into_a_folder(place: Place, store: LocalStore, tmp_path: Path) -> None:
    evaluation = submitted(place, "eval", submitted(place, *TRAIN), "--on", "digits")
    assert run("--api", place.url, "report", evaluation, "--out", str(tmp_path / "early")).returncode == 3
    assert not (tmp_path / "early").exists()
    succeed(place, store, evaluation)
    written = submitted(place, "report", evaluation, "--out", str(tmp_path / "out")).splitlines()
    names = ["report.json", "bars.png", "report.md"]
    assert written == [str(tmp_path / "out" / name) for name in names]
    first, *others = [(tmp_path / "out" / name).read_bytes() for name in names]
    assert (json.loads(first), others) == ({"benchmarks": []}, [FILES["bars.png"], FILES["report.md"]])


def test_the_report_of_an_experiment_is_written_too(place: Place, store: LocalStore, tmp_path: Path) -> None:
    with Client(place.url) as client:
        experiment = client.experiments.create(**EXPERIMENT).id
    succeed(place, store, experiment)
    answer = json.loads(submitted(place, "--json", "report", experiment, "--out", str(tmp_path / "out")))
    assert answer["job"] == experiment
    assert [Path(name).name for name in answer["files"]] == ["report.json", "bars.png", "report.md"]
    assert (tmp_path / "out/report.md").read_bytes() == FILES["report.md"]


def test_a_job_without_a_report_is_wrong_usage(place: Place) -> None:
    training = submitted(place, *TRAIN)
    done = run("--api", place.url, "report", training, COLUMNS="500")
    assert done.returncode == 2
    assert f"{training} is a training; evaluations and experiments have reports" in done.stderr
    assert run("--api", place.url, "report", "ev-00000000000000000000000000").returncode == 3


def test_an_evaluation_can_be_compared_with_others(place: Place) -> None:
    training = submitted(place, *TRAIN)
    others = [submitted(place, "eval", training, "--on", "digits") for _ in range(2)]
    named = [word for other in others for word in ("--compare-with", other)]
    compared = submitted(place, "eval", training, "--on", "digits", *named)
    with Client(place.url) as client:
        request = client.evaluations.get(compared).spec["request"]
    assert isinstance(request, dict)
    assert request["compare_with"] == others
