"""An experiment on one machine, small."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from client import Client
from services.standalone.experiment import once, run_experiment
from shared.database import Database
from shared.experiments import ExperimentRequest
from shared.schema import upgrade
from shared.settings import Settings
from tests.conftest import ServeApi

TINY = {
    "name": "tiny",
    "classes": "digits",
    "grids": [{"prompts": ["description"], "scales": [2, 7.5], "images_per_class": [2]}],
    "real": ["digits-train"],
    "training": {"architecture": "test_resnet", "steps": 2, "batch_size": 8, "flip": False},
    "benchmarks": ["digits"],
}


def test_an_experiment_goes_on_when_its_idempotency_key_is_forgotten_and_is_made_anew_once_cancelled(
    serve_api: ServeApi, lexicon_path: Path, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data", lexicon_path=lexicon_path, idempotency_hours=1e-9)
    settings.data_dir.mkdir()
    upgrade(Database(settings.sqlalchemy_url))
    request = ExperimentRequest.model_validate(TINY)
    with Client(str(serve_api(settings).base_url)) as client:
        first = once(client, request, tmp_path)
        assert once(client, request, tmp_path) == first
        client.jobs.cancel(first)
        second = once(client, request, tmp_path)
        assert second != first
        assert once(client, request, tmp_path) == second
        # As after the folder's database was deleted.
        next(tmp_path.glob("experiment-*.id")).write_text("exp-unknown")
        assert once(client, request, tmp_path) not in (first, second)


@pytest.mark.slow
def test_an_experiment_ends_in_a_report_and_run_again_reuses_it(lexicon_path: Path, tmp_path: Path) -> None:
    request, quiet = ExperimentRequest.model_validate(TINY), Console(quiet=True)
    first = run_experiment(request, tmp_path, quiet)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(row["trained_on"], row["images"]) for row in report["rows"]] == [
        ("description, guidance 2, 2 per class", 20),
        ("description, guidance 7.5, 2 per class", 20),
        ("real: digits-train", 1257),
    ]
    assert {score["images"] for row in report["rows"] for score in row["scores"]} == {540}
    assert {"report.md", "report.html", "prompts.svg", "prompts.png"} <= {path.name for path in tmp_path.iterdir()}
    assert run_experiment(request, tmp_path, quiet) == first
