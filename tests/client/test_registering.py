"""`synthclone models register`: weights are checked before a line is written."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from shared.models import find_model, verify_weights
from shared.settings import PROJECT_ROOT, Settings

from .test_command_line import run

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
COMMAND = ("models", "register", "mine", "copied", "--licence", "Apache-2.0")


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """The variables of a service with a copied model and no models file yet."""
    shutil.copytree(PROJECT_ROOT / "models/digits-sd", tmp_path / "models/copied")
    return {
        "SYNTHCLONE_MODELS_DIR": str(tmp_path / "models"),
        "SYNTHCLONE_MODELS_FILE": str(tmp_path / "models.json"),
    }


def written(place: dict[str, str]) -> list[dict[str, object]]:
    file = Path(place["SYNTHCLONE_MODELS_FILE"])
    return list(json.loads(file.read_text())) if file.exists() else []


def test_a_folder_is_checked_and_written_and_can_be_drawn_with(place: dict[str, str]) -> None:
    options = ("--image-size", "32", "--scheduler", "dpm++", "--steps", "15", "--dtype", "float32", "--own-tokenizer")
    done = run(*COMMAND, *options, **place)
    assert done.returncode == 0, done.stderr
    settings = Settings(
        models_dir=Path(place["SYNTHCLONE_MODELS_DIR"]), models_file=Path(place["SYNTHCLONE_MODELS_FILE"])
    )
    entry = find_model(settings, "mine")
    verify_weights(settings, entry)
    assert entry.digest == find_model(Settings(), "digits-sd").digest
    assert (entry.dtype, entry.scheduler, entry.steps, entry.clip_tokenizer) == ("float32", "dpm++", 15, False)
    assert json.loads(done.stdout) == entry.model_dump(mode="json")


def test_registering_again_changes_the_card_and_keeps_the_others(place: dict[str, str]) -> None:
    for name, steps in (("mine", "15"), ("other", "20"), ("mine", "25")):
        done = run("models", "register", name, "copied", "--licence", "MIT", "--steps", steps, **place)
        assert done.returncode == 0, done.stderr
    assert [(entry["name"], entry["steps"]) for entry in written(place)] == [("mine", 25), ("other", 20)]


def test_weights_that_are_not_whole_are_refused_by_name_and_nothing_is_written(place: dict[str, str]) -> None:
    file = Path(place["SYNTHCLONE_MODELS_DIR"]) / "copied" / WEIGHTS
    weights = load_file(file)
    del weights["conv_in.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    done = run(*COMMAND, **place)
    assert done.returncode == 78
    assert "lack conv_in.weight" in done.stderr
    assert written(place) == []


def test_the_name_of_other_weights_is_refused(place: dict[str, str]) -> None:
    done = run("models", "register", "sd14", "copied", "--licence", "MIT", **place)
    assert done.returncode == 3
    assert "'sd14' is registered with other weights, hub:CompVis/stable-diffusion-v1-4" in done.stderr
    assert written(place) == []


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("--scheduler", "heun"), 3, "scheduler 'heun'"),
        (("--dtype", "float8"), 3, "dtype 'float8'"),
        (("--steps", "0"), 2, "--steps"),
    ],
)
def test_a_bad_card_is_refused_by_name(place: dict[str, str], options: tuple[str, ...], code: int, named: str) -> None:
    done = run(*COMMAND, *options, **place)
    assert (done.returncode, named in done.stderr) == (code, True)
    assert written(place) == []


def test_a_folder_that_is_not_there_and_a_missing_variable_are_named(place: dict[str, str]) -> None:
    done = run("models", "register", "mine", "nowhere", "--licence", "MIT", **place)
    assert done.returncode == 78
    assert "no diffusers folder at" in done.stderr
    del place["SYNTHCLONE_MODELS_FILE"]
    done = run(*COMMAND, **place)
    assert done.returncode == 78
    assert "SYNTHCLONE_MODELS_FILE is not set" in done.stderr
