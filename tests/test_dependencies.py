"""Every dependency has a line that says what it is for."""

import re
import tomllib

from shared.settings import PROJECT_ROOT


def declared() -> list[str]:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    extras = [wanted for names in project["optional-dependencies"].values() for wanted in names]
    names = {re.split(r"[\[<>=]", wanted)[0].lower() for wanted in [*project["dependencies"], *extras]}
    return sorted(names - {project["name"]})


def test_each_dependency_is_named_once_with_its_purpose() -> None:
    rows = re.findall(r"^\| ([a-z0-9-]+) \| \S", (PROJECT_ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    assert sorted(set(rows) - {"package"}) == declared()
    assert len(set(rows)) == len(rows)


def test_each_dependency_is_pinned() -> None:
    text = (PROJECT_ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", text, re.MULTILINE))
    assert set(declared()) <= pinned
