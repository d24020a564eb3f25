"""The overlays for GPUs start a generating worker for each."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.test_deployment import COMPOSE_SECRETS, ROOT, pods, render_compose

OVERLAY = ROOT / "docker-compose.gpu.yml"
DOCKERFILE = ROOT / "services/sd_worker/Dockerfile"


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
@pytest.mark.parametrize(("variables", "workers"), [({}, "1"), ({"GPUS": "8"}, "8")])
def test_compose_runs_as_many_workers_as_gpus(tmp_path: Path, variables: dict[str, str], workers: str) -> None:
    rendered = render_compose(tmp_path, COMPOSE_SECRETS | variables)
    assert rendered.returncode == 0, rendered.stderr
    service = yaml.safe_load(rendered.stdout)["services"]["sd_worker"]
    assert service["command"][-2:] == ["--concurrency", workers]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["count"], device["capabilities"]) in ((-1, ["gpu"]), ("all", ["gpu"]))


def test_the_overlay_starts_the_worker_as_its_image_does() -> None:
    (line,) = [line for line in DOCKERFILE.read_text().splitlines() if line.startswith("CMD ")]
    command = yaml.safe_load(OVERLAY.read_text())["services"]["sd_worker"]["command"]
    assert command[:-2] == json.loads(line.removeprefix("CMD "))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_a_pod_of_kubernetes_has_one_gpu_and_one_worker() -> None:
    (container,) = pods(ROOT / "k8s/base")["sd-worker"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "command" not in container
    assert "args" not in container
