"""`synthclone doctor` on this machine: what draws here, how fast, and who else draws."""

import json
import math
from pathlib import Path

import pytest
import torch

from client.devices import check_device, check_drawing
from client.doctor import check_workers
from services.sd_worker.machine import usual_batch
from services.sd_worker.rate import card_recipe, refuse_endless
from shared.database import Database
from shared.errors import ConfigurationError
from shared.migrate import migrate
from shared.models import find_model
from shared.settings import Settings
from shared.workers import Presence

from .test_command_line import run


def test_the_rate_of_the_default_model_is_measured_as_a_worker_draws(tmp_path: Path) -> None:
    done = run("--json", "doctor", "--rate", SYNTHCLONE_DATA_DIR=str(tmp_path), SYNTHCLONE_BATCH_SIZE="4")
    found = json.loads(done.stdout)
    rate, told = found["rate"], {line["part"]: line for line in found["findings"]}["rate"]
    assert told["verdict"] == "ok"
    assert (rate["model"], rate["batch"], rate["images"], rate["dtype"]) == ("digits-sd", 4, 12, "float32")
    assert rate["images_per_second"] > 0
    expected = rate["images_per_second"] * rate["teraflop_per_image"] / rate["matmul_teraflop_per_second"]
    assert math.isclose(rate["utilisation"], expected, rel_tol=0.05)
    assert f"{rate['images_per_second']:g} images/s of digits-sd on " in told["detail"]


def test_without_the_option_nothing_is_drawn(tmp_path: Path) -> None:
    found = json.loads(run("--json", "doctor", SYNTHCLONE_DATA_DIR=str(tmp_path)).stdout)
    assert found["rate"] is None
    assert "rate" not in {line["part"] for line in found["findings"]}


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [(("--model", "digits-sd"), 2, "--rate"), (("--rate", "--model", "sd99"), 78, "unknown model 'sd99'")],
)
def test_a_bad_model_is_named(tmp_path: Path, options: tuple[str, ...], code: int, named: str) -> None:
    done = run("doctor", *options, SYNTHCLONE_DATA_DIR=str(tmp_path))
    assert done.returncode == code
    assert named in done.stdout + done.stderr


def test_what_would_take_a_working_day_is_refused_with_its_time() -> None:
    from services.sd_worker.machine import machine_of

    settings = Settings(device="cpu", batch_size=2)
    entry = find_model(settings, "sd14")
    with pytest.raises(ConfigurationError, match=r"4 batches of 2 images of 'sd14' take 120 minutes or more on cpu"):
        refuse_endless(entry, machine_of(settings), seconds=7200)
    refuse_endless(entry, machine_of(settings), seconds=60)
    assert (card_recipe(entry).steps, card_recipe(entry).width) == (50, 512)


def test_the_device_and_how_a_worker_would_draw_are_told(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, device="cpu")
    assert check_device(settings) == f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
    batch = usual_batch(torch.device("cpu"))
    assert check_drawing(settings) == f"batches of {batch} images (as suits the device); nothing is compiled"


def test_the_folder_of_compiled_kernels_is_told_empty_and_filled(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, device="cpu", compile="on", batch_size=5)
    told = check_drawing(settings)
    assert "batches of 5 images (SYNTHCLONE_BATCH_SIZE); no compiled kernels in" in told
    folder = Path(told.partition("kernels in ")[2].partition(" yet")[0])
    folder.mkdir(parents=True)
    (folder / "kernel.so").write_bytes(bytes(2_000_000))
    assert check_drawing(settings).endswith(f"compiled kernels in {folder}: 1 files, 2.0 MB")


def test_live_workers_are_told_with_device_state_and_rate(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    migrate(settings)
    assert check_workers(settings) == "none is alive that draws images"
    database = Database(settings.sqlalchemy_url)
    first, other = (Presence(database, kind, device="NVIDIA X") for kind in ("generate", "train"))
    other.beat()
    first.beat()
    assert check_workers(settings).endswith("on NVIDIA X is idle, no rate yet")
    first.busy, first.images_per_second = True, 5.25
    first.beat()
    assert check_workers(settings).endswith("on NVIDIA X draws, 5.25 images/s")
    first.set_problem("the disk is full")
    first.beat()
    assert "on NVIDIA X the disk is full" in check_workers(settings)


def test_no_database_is_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="synthclone migrate"):
        check_workers(Settings(data_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []
