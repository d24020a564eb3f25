"""The demo itself, small."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from services.standalone.demo.plan import DemoPlan
from services.standalone.demo.run import run_demo

TINY = DemoPlan(images_per_class=2, seeds=(0,), steps=3)


@pytest.mark.slow
def test_demo_writes_its_report_and_run_again_reuses_everything(lexicon_path: Path, tmp_path: Path) -> None:
    first = run_demo(TINY, tmp_path, Console(quiet=True))
    again = run_demo(TINY, tmp_path, Console(quiet=True))
    assert [(known.guidance, known.images) for known in first.rows] == [(7.5, 20), (2.0, 20), (None, 1257)]
    assert again == first
    assert json.loads((tmp_path / "report.json").read_text())["rows"][0]["n_test"] == 540
    assert {path.name for path in tmp_path.glob("*.png")} == {"figure.png", "samples.png"}
