"""Each image holds one service, its declared requirements and a command that exists."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shared.database import Database
from shared.queue import KINDS
from shared.schema import upgrade
from shared.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted(ROOT.glob("services/*/Dockerfile"))
each_service = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    joined = dockerfile.read_text().replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def arguments(dockerfile: Path, instruction: str) -> list[str]:
    return [rest for word, rest in instructions(dockerfile) if word == instruction]


def copied(dockerfile: Path) -> list[str]:
    lines = [line.split() for line in arguments(dockerfile, "COPY") if not line.startswith("--from")]
    return [source for words in lines for source in words[:-1]]


def extras() -> dict[str, list[str]]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def installed_extras(dockerfile: Path) -> list[str]:
    (names,) = re.findall(r'"\.\[(.+)\]"', dockerfile.read_text())
    return str(names).split(",")


def requirements(extra: str) -> set[str]:
    """Names of everything an extra asks for, through the extras it is made of."""
    names: set[str] = set()
    for requirement in extras()[extra]:
        nested = re.fullmatch(r"synthclone\[(.+)\]", requirement)
        inner = nested.group(1).split(",") if nested else []
        names |= {name for part in inner for name in requirements(part)} or {re.split(r"[\[<>=]", requirement)[0]}
    return names


@each_service
def test_dockerfile_copies_what_exists_and_what_the_build_context_holds(dockerfile: Path) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in copied(dockerfile):
        assert (ROOT / source).exists(), source
        assert source.rstrip("/") in allowed or source.split("/")[0] in allowed, source


@each_service
def test_dockerfile_installs_the_extra_of_its_service(dockerfile: Path) -> None:
    # Extras have hyphens: pip installs nothing, and says little, for one that is not declared.
    assert dockerfile.parent.name.replace("_", "-") in installed_extras(dockerfile)
    assert set(installed_extras(dockerfile)) <= set(extras())


@each_service
def test_image_holds_one_service_and_runs_as_a_user_with_a_number(dockerfile: Path) -> None:
    services = {source for source in copied(dockerfile) if source.startswith("services/")}
    assert services == {f"services/{dockerfile.parent.name}/"}
    assert arguments(dockerfile, "USER") == ["10001:10001"]


def test_api_image_has_no_torch() -> None:
    dockerfile = ROOT / "services/prompt_api/Dockerfile"
    assert "torch" not in dockerfile.read_text()
    installed = {name for extra in installed_extras(dockerfile) for name in requirements(extra)}
    assert installed & {"torch", "torchvision", "timm", "diffusers"} == set()
    assert "torch" in requirements("sd-worker")


def test_an_operator_registers_real_sets_in_the_evaluators_image(tmp_path: Path) -> None:
    dockerfile = ROOT / "services/evaluator/Dockerfile"
    assert "client/" in copied(dockerfile)
    assert "client" in installed_extras(dockerfile)
    upgrade(Database(Settings(data_dir=tmp_path).sqlalchemy_url))
    code = (
        "import sys; from client.main import app; app(['testsets', 'list'], standalone_mode=False); "
        "print([name for name in sys.modules if name.startswith('services.')])"
    )
    environment = os.environ | {"SYNTHCLONE_DATA_DIR": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "digits-train" in found.stdout
    # No other service's code is there.
    assert found.stdout.splitlines()[-1] == "[]"


@each_service
def test_image_starts_code_that_exists(dockerfile: Path) -> None:
    (line,) = arguments(dockerfile, "CMD")
    command = json.loads(line)
    if command[0] == "python":
        assert command[1] == "-m"
        assert importlib.util.find_spec(f"{command[2]}.__main__")
    else:
        assert command[:2] == ["celery", "-A"]
        queue = command[command.index("-Q") + 1]
        assert queue in KINDS
        assert celery_target(command[2]) == {"answers": [kind for kind in KINDS if kind == queue], "torch": False}


def celery_target(module: str) -> object:
    """What Celery's parent process finds there: the bells it answers, and whether torch came along."""
    code = (
        f"import json, sys; from {module} import app; from shared.queue import KINDS; "
        "print(json.dumps({'answers': [k for k in KINDS if k in app.tasks], 'torch': 'torch' in sys.modules}))"
    )
    environment = os.environ | {"SYNTHCLONE_REDIS_URL": "redis://127.0.0.1:1/0"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)
