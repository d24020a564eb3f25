"""Which processes `synthclone up` starts, by the GPUs of the machine."""

import os
from pathlib import Path

import pytest

from services.standalone.roster import count_usable_gpus, make_roster
from shared.errors import ConfigurationError
from shared.settings import Settings

GENERATOR = "services.sd_worker"
ENVIRONMENT = {"PATH": "/bin", "SYNTHCLONE_DATA_DIR": "data"}


def generators(environment: dict[str, str], gpus: int, **settings: object) -> list[dict[str, str]]:
    roster = make_roster(Settings.model_validate(settings), environment, gpus=gpus)
    return [dict(service.environment) for service in roster if service.module == GENERATOR]


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_each_gpu_has_a_generating_worker_that_sees_no_other(gpus: int) -> None:
    assert generators(ENVIRONMENT, gpus) == [
        {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": str(number)} for number in range(gpus)
    ]


def test_without_a_gpu_there_is_one_generating_worker_as_it_was() -> None:
    assert generators(ENVIRONMENT, 0) == [ENVIRONMENT]


def test_the_gpus_that_the_operator_shows_are_shared_out() -> None:
    shown = {"CUDA_VISIBLE_DEVICES": "5, GPU-1a2b,MIG-3c"}
    assert [found["CUDA_VISIBLE_DEVICES"] for found in generators(shown, 3)] == ["5", "GPU-1a2b", "MIG-3c"]


def test_more_workers_than_shown_gpus_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="worker 3 has no GPU: CUDA_VISIBLE_DEVICES=0,1 shows 2"):
        generators({"CUDA_VISIBLE_DEVICES": "0,1"}, 3)


def test_workers_of_one_machine_answer_on_ports_of_their_own() -> None:
    found = generators(ENVIRONMENT, 3, worker_health_port=8001)
    assert [each["SYNTHCLONE_WORKER_HEALTH_PORT"] for each in found] == ["8001", "8002", "8003"]


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_the_other_services_are_started_once_and_see_what_the_operator_shows(gpus: int) -> None:
    others = [service for service in make_roster(Settings(), ENVIRONMENT, gpus=gpus) if service.module != GENERATOR]
    assert sorted(service.module for service in others) == [
        f"services.{name}" for name in ("dispatcher", "evaluator", "prompt_api", "trainer")
    ]
    assert all(service.environment == ENVIRONMENT for service in others)


def test_gpus_are_counted_only_where_they_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("class cuda:\n    device_count = staticmethod(lambda: 8)\n")
    environment, files = {**os.environ, "PYTHONPATH": str(tmp_path)}, ["/dev/nvidia0"]
    assert count_usable_gpus(Settings(), environment, files=files) == 8
    assert count_usable_gpus(Settings(device="cuda"), environment, files=files) == 8
    assert count_usable_gpus(Settings(device="cpu"), environment, files=files) == 0
    assert count_usable_gpus(Settings(), {**environment, "CUDA_VISIBLE_DEVICES": ""}, files=files) == 0
    assert count_usable_gpus(Settings(), environment, files=[]) == 0
