"""The tables of docs/performance.md are those of bench/results."""

import json
from pathlib import Path

from bench.tables import BLOCK, DOCUMENT, SECTIONS, block, written


def test_the_document_has_the_figures_of_the_results() -> None:
    document = DOCUMENT.read_text()
    assert document == written(document), "run `python -m bench.tables`"
    assert {found[2] for found in BLOCK.finditer(document)} == set(SECTIONS)


def test_a_table_tells_command_machine_and_versions(tmp_path: Path) -> None:
    facts = {"seconds": 217.7, "machine": {"system": "Linux", "processor": "x86_64", "cores": 2}}
    (tmp_path / "demo.json").write_text(json.dumps(facts | {"versions": {"python": "3.11.7", "torch": "2.13.0"}}))
    assert block("demo", tmp_path).splitlines() == [
        "`python -m bench.demo`; Linux x86_64, 2 cores; python 3.11.7, torch 2.13.0",
        "",
        "| the demo, set up | seconds |",
        "| --- | ---: |",
        "| whole | 218 |",
    ]


def test_what_was_not_measured_has_its_command_and_no_figure(tmp_path: Path) -> None:
    assert (
        block("generation_gpu", tmp_path) == "Not measured yet: `python -m bench.generation` on a machine with a GPU\n"
    )
