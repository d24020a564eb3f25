"""`synthclone encoders add`, as an operator runs it."""

import hashlib
from pathlib import Path

from shared.vision.networks import create_network

import pytest
from safetensors.torch import save_file

from shared.database import Database
from shared.schema import upgrade
from shared.settings import Settings
from shared.specs import TRAINED_SPEC, ImportedSpec
from shared.tables import Job
from tests.client.test_command_line import run
from tests.trainer.rows import DIGITS


def test_a_network_that_was_trained_elsewhere_becomes_a_training_that_succeeded(tmp_path: Path) -> None:
    database = Database(Settings(data_dir=tmp_path).sqlalchemy_url)
    upgrade(database)
    file = tmp_path / "network.safetensors"
    save_file(create_network("test_resnet", classes=10, image_size=32).state_dict(), file)
    options = ("--arch", "test_resnet", "--classes", "digits", "--image-size", "32", "--name", "a public checkpoint")
    done = run("encoders", "add", str(file), *options, SYNTHCLONE_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    with database.read() as session:
        job = session.get_one(Job, done.stdout.strip())
    spec = TRAINED_SPEC.validate_python(job.spec)
    assert isinstance(spec, ImportedSpec)
    assert (job.kind, job.state, spec.imported, spec.class_ids) == (
        *("training", "succeeded"),
        *("a public checkpoint", DIGITS),
    )
    assert job.result is not None
    assert spec.sha256 == job.result["encoder_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--classes", "in2k"), "--classes 'in2k' is neither a class list (in1k, in100, digits) nor a file"),
        (("--mean", "a,b"), "--mean 'a,b' is no list of numbers such as 0.5,0.5,0.5"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_slip_is_named(changes: tuple[str, str], message: str) -> None:
    options = ("--arch", "test_resnet", "--classes", "digits", "--name", "x", *changes)
    refused = run("encoders", "add", "missing.safetensors", *options)
    assert (refused.returncode, message in refused.stderr) == (3, True), refused.stderr
