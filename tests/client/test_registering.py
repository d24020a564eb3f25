"""`synthclone models register`: weights are checked before a line is written."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from shared.models import find_model, folder_digest, verify_weights
from shared.settings import PROJECT_ROOT, Settings

from .test_command_line import run

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
COMMAND = ("models", "register", "mine", "copied", "--licence", "Apache-2.0")


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """The variables of a service with a changed copy of the built-in model and no models file yet."""
    for name in ("copied", "second"):
        copy = shutil.copytree(PROJECT_ROOT / "models/digits-sd", tmp_path / "models" / name)
        config = json.loads((copy / "unet/config.json").read_text())
        (copy / "unet/config.json").write_text(json.dumps({**config, "_name_or_path": name}))
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
    assert entry.digest == folder_digest(Path(place["SYNTHCLONE_MODELS_DIR"]) / "copied")
    assert (entry.dtype, entry.scheduler, entry.steps, entry.clip_tokenizer) == ("float32", "dpm++", 15, False)
    assert json.loads(done.stdout) == entry.model_dump(mode="json")


def test_registering_again_changes_the_card_and_keeps_the_others(place: dict[str, str]) -> None:
    for name, folder, steps in (("mine", "copied", "15"), ("other", "second", "20"), ("mine", "copied", "25")):
        done = run("models", "register", name, folder, "--licence", "MIT", "--steps", steps, **place)
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


def test_weights_that_have_another_name_are_refused_with_it(place: dict[str, str]) -> None:
    assert run(*COMMAND, **place).returncode == 0
    done = run("models", "register", "again", "copied", "--licence", "MIT", "--dtype", "float32", **place)
    assert done.returncode == 3
    assert "are registered as 'mine'" in done.stderr
    assert "ask for 'mine', or register under that name to change its card" in done.stderr
    assert [entry["name"] for entry in written(place)] == ["mine"]


def test_half_precision_files_alone_are_refused_with_the_remedy(place: dict[str, str]) -> None:
    file = Path(place["SYNTHCLONE_MODELS_DIR"]) / "copied" / WEIGHTS
    file.rename(file.with_suffix(".fp16.safetensors"))
    done = run(*COMMAND, **place)
    assert done.returncode == 78
    assert "diffusion_pytorch_model.fp16.safetensors the name must be without '.fp16'" in done.stderr
    assert "Traceback" not in done.stderr
    assert written(place) == []


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("--scheduler", "heun"), 3, "scheduler 'heun'"),
        (("--dtype", "float8"), 3, "dtype 'float8'"),
        (("--image-size", "100"), 3, "image_size 100 is not a multiple of 8; take 96 or 104"),
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
