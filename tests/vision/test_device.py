"""A GPU that is there is used, or its absence is told; never a slow run on the CPU that nobody noticed."""

import logging
import os
from pathlib import Path

from shared.vision.device import choose_device, refuse_unseen

import pytest
import torch

from shared.errors import ConfigurationError
from shared.gpus import are_hidden, count_gpus, driver_files, nth_gpu

FILES = ["/dev/nvidia0", "/dev/nvidia1"]
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_a_driver_whose_gpu_a_cuda_build_does_not_see_stops_the_worker() -> None:
    with pytest.raises(ConfigurationError, match=r"/dev/nvidia0, /dev/nvidia1 .*CUDA 13.0\) sees none.*DEVICE=cpu"):
        refuse_unseen(FILES, build="13.0")


def test_a_build_for_the_cpu_beside_a_gpu_says_so(caplog: pytest.LogCaptureFixture) -> None:
    refuse_unseen(FILES, build=None)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.records[0].__dict__["files"] == FILES


@pytest.mark.parametrize("build", ["13.0", None])
def test_a_machine_without_a_driver_computes_on_the_cpu(build: str | None, caplog: pytest.LogCaptureFixture) -> None:
    refuse_unseen([], build=build)
    assert not caplog.records


@needs_no_gpu
def test_a_gpu_that_was_asked_for_and_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="SYNTHCLONE_DEVICE is cuda"):
        choose_device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


def test_only_files_of_gpus_count(tmp_path: Path) -> None:
    for name in ("nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert driver_files(tmp_path) == []
    for name in ("nvidia1", "nvidia0", "dxg"):
        (tmp_path / name).touch()
    assert [Path(file).name for file in driver_files(tmp_path)] == ["dxg", "nvidia0", "nvidia1"]


@pytest.mark.parametrize(("shown", "hidden"), [("", True), ("-1", True), ("0", False), ("GPU-1a2b", False)])
def test_gpus_that_the_operator_hides_are_known(shown: str, hidden: bool) -> None:
    assert are_hidden({"CUDA_VISIBLE_DEVICES": shown}) is hidden
    assert not are_hidden({})


def test_gpus_are_told_by_number_or_as_the_operator_shows_them() -> None:
    assert nth_gpu(2, {}) == "2"
    assert nth_gpu(1, {"CUDA_VISIBLE_DEVICES": "4,7"}) == "7"


def test_gpus_are_counted_by_torch_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert count_gpus(os.environ) == torch.cuda.device_count()
    stand_in = "class cuda:\n    device_count = staticmethod(lambda: 8)\n"
    (tmp_path / "torch.py").write_text(stand_in)
    assert count_gpus({**os.environ, "PYTHONPATH": str(tmp_path)}) == 8
    (tmp_path / "torch.py").write_text("raise ImportError('no libcudart')")
    with pytest.raises(ConfigurationError, match="no libcudart"):
        count_gpus({**os.environ, "PYTHONPATH": str(tmp_path)})
