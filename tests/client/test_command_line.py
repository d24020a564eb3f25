"""The command `synthclone` as its users run it: a process with exit codes, stdout and stderr."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from client import Client
from client.asking import read_classes
from client.main import globals_first
from shared import lifecycle
from shared.database import Database
from shared.schema import upgrade
from shared.settings import Settings
from tests.conftest import ServeApi

SMALL = ("submit", "--classes", "digits", "--per-class", "1")
TRAIN = ("train", "--real", "digits-train", "--arch", "test_resnet", "--steps", "1")


class Place(NamedTuple):
    """A running API and its database."""

    url: str
    database: Database


@pytest.fixture
def place(serve_api: ServeApi, lexicon_path: Path, tmp_path: Path) -> Iterator[Place]:
    settings = Settings(data_dir=tmp_path, lexicon_path=lexicon_path)
    database = Database(settings.sqlalchemy_url)
    upgrade(database)
    yield Place(str(serve_api(settings).base_url), database)
    database.engine.dispose()


def clean_environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SYNTHCLONE_")}
    return kept | variables


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "client.main", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=clean_environment(**variables)
    )


def end(database: Database, job_id: str, state: str) -> None:
    error = lifecycle.failure("test", "the disk was full", retryable=False) if state == "failed" else None
    with database.write() as session:
        assert lifecycle.transition(session, job_id, state, error=error)


def submitted(place: Place, *arguments: str) -> str:
    done = run("--api", place.url, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_submit_writes_the_id_alone_on_stdout(place: Place) -> None:
    done = run("--api", place.url, *SMALL)
    assert done.returncode == 0
    assert done.stdout.startswith("ds-")
    assert done.stdout.count("\n") == 1
    assert "10 images in all" in done.stderr


def test_address_of_the_api_is_read_from_the_environment(place: Place) -> None:
    assert run(*SMALL, SYNTHCLONE_API_URL=place.url).returncode == 0


def test_json_is_one_object_wherever_the_option_stands(place: Place) -> None:
    before = json.loads(run("--json", "--api", place.url, *SMALL).stdout)
    after = json.loads(run(*SMALL, "--json", "--api", place.url).stdout)
    assert (before["state"], after["state"]) == ("queued", "queued")


def test_quiet_leaves_only_the_data(place: Place) -> None:
    assert run("--api", place.url, *SMALL, "--quiet").stderr == ""


def test_options_of_submit_reach_the_request(place: Place) -> None:
    words = ["--prompt", "a photo of {name}", "--scale", "2", "--seed", "5", "--model", "digits-sd"]
    job_id = submitted(place, *SMALL, *words)
    with Client(place.url) as client:
        request = client.datasets.get(job_id).spec["request"]
    assert isinstance(request, dict)
    assert request["prompt"] == {"template": "a photo of {name}"}
    assert (request["scale"], request["seed"], request["model"]) == (2, 5, "digits-sd")


def test_limits_of_submit_reach_the_request(place: Place) -> None:
    limits = ["--deadline", "2099-01-01T12:00:00+02:00", "--budget-images", "5", "--budget-seconds", "60"]
    job_id = submitted(place, *SMALL, "--priority", "7", *limits)
    with Client(place.url) as client:
        job, request = client.jobs.get(job_id), client.datasets.get(job_id).spec["request"]
    assert isinstance(request, dict)
    assert job.deadline == datetime(2099, 1, 1, 10, tzinfo=UTC)
    assert (request["priority"], request["budget"]) == (7, {"images": 5, "worker_seconds": 60.0})


def test_the_size_of_submit_reaches_the_request(place: Place) -> None:
    with Client(place.url) as client:
        for words, sides in ((["--width", "96", "--height", "64"], (96, 64)), (["--height", "64"], (32, 64))):
            recipe = client.datasets.get(submitted(place, *SMALL, *words)).spec["recipe"]
            assert isinstance(recipe, dict)
            assert (recipe["width"], recipe["height"]) == sides


def test_a_bad_size_is_refused_before_anything_is_sent(place: Place) -> None:
    done = run("--api", place.url, *SMALL, "--width", "100")
    assert (done.returncode, done.stdout) == (2, "")
    assert "width 100 is not a multiple of 8" in done.stderr


def test_an_approximation_of_submit_reaches_the_request(place: Place) -> None:
    job_id = submitted(place, *SMALL, "--guidance-interval", "0.2", "0.8", "--reuse-every", "3")
    with Client(place.url) as client:
        request = client.datasets.get(job_id).spec["request"]
    assert isinstance(request, dict)
    assert request["approximation"] == {"guidance_interval": [0.2, 0.8], "reuse_every": 3}


def test_a_bad_approximation_is_refused_before_anything_is_sent(place: Place) -> None:
    done = run("--api", place.url, *SMALL, "--guidance-interval", "0.8", "0.2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "[0.8, 0.2] is empty" in done.stderr


def test_verification_of_a_dataset_without_images_is_refused(place: Place) -> None:
    done = run("--api", place.url, "verify", submitted(place, *SMALL))
    assert done.returncode == 3
    assert "no finished shard yet" in done.stderr


def test_same_idempotency_key_submits_once(place: Place) -> None:
    assert submitted(place, *SMALL, "--idempotency-key", "k") == submitted(place, *SMALL, "--idempotency-key", "k")


def test_dry_run_estimates_and_creates_nothing(place: Place) -> None:
    assert "20 images in all" in submitted(place, "submit", "--classes", "digits", "--per-class", "2", "--dry-run")
    assert json.loads(run("--api", place.url, "--json", "jobs").stdout)["items"] == []


def test_jobs_lists_what_was_asked_for(place: Place) -> None:
    job_id = submitted(place, *SMALL)
    listed = run("--api", place.url, "jobs").stdout
    assert job_id in listed
    assert "class name prompts" in listed


def test_training_and_test_wait_for_what_they_need(place: Place) -> None:
    dataset = submitted(place, *SMALL)
    training = submitted(place, "train", dataset, "--arch", "test_resnet", "--steps", "2", "--no-flip")
    assert submitted(place, "eval", training, "--on", "digits").startswith("ev-")


def test_prompts_are_shown_before_anything_is_drawn(place: Place) -> None:
    shown = submitted(place, "prompts", "digits", "--prompt", "a photo of {name}", "--limit", "1")
    assert "a photo of zero" in shown


def test_watched_job_that_succeeds_exits_with_0(place: Place) -> None:
    job_id = submitted(place, *TRAIN)
    end(place.database, job_id, "running")
    threading.Timer(1, end, (place.database, job_id, "succeeded")).start()
    done = run("--api", place.url, "watch", job_id)
    assert (done.returncode, done.stdout) == (0, "succeeded\n")


def test_watching_with_json_writes_one_line_per_event(place: Place) -> None:
    job_id = submitted(place, *TRAIN)
    end(place.database, job_id, "running")
    end(place.database, job_id, "succeeded")
    lines = run("--api", place.url, "watch", job_id, "--json").stdout.splitlines()
    assert [json.loads(line)["payload"]["state"] for line in lines] == ["queued", "running", "succeeded"]


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_job_that_failed_or_was_cancelled_exits_with_1(place: Place, state: str) -> None:
    job_id = submitted(place, *TRAIN)
    end(place.database, job_id, state)
    done = run("--api", place.url, "watch", job_id)
    assert done.returncode == 1
    assert job_id in done.stderr
    assert state in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit",),
        ("nosuch",),
        (*SMALL, "--scale", "99"),
        (*SMALL, "--prompt", "nosuch"),
        (*SMALL, "--deadline", "tomorrow"),
        (*SMALL, "--budget-images", "0"),
        ("prompts", "digits", "--prompt", "{x}"),
        ("prompts", "longer than a file name can be" * 10),
    ],
)
def test_wrong_usage_exits_with_2_and_sends_nothing(arguments: tuple[str, ...]) -> None:
    assert run("--api", "http://127.0.0.1:1", *arguments).returncode == 2


@pytest.mark.parametrize("content", [b'[{"name": "crane"', b"\xff\xfe[]"])
@pytest.mark.parametrize("command", [("submit", "--classes"), ("prompts",)])
def test_file_of_classes_that_cannot_be_read_is_wrong_usage(
    tmp_path: Path, command: tuple[str, ...], content: bytes
) -> None:
    own = tmp_path / "own.json"
    own.write_bytes(content)
    done = run("--api", "http://127.0.0.1:1", *command, str(own), COLUMNS="500")
    assert done.returncode == 2
    assert str(own) in done.stderr
    assert "Traceback" not in done.stderr


def test_request_that_the_api_refuses_exits_with_3(place: Place) -> None:
    done = run("--api", place.url, "submit", "--classes", "in2k")
    assert (done.returncode, done.stdout) == (3, "")
    assert "in2k" in done.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_wait_that_is_over_exits_with_4(place: Place, form: tuple[str, ...]) -> None:
    job_id = submitted(place, *TRAIN)
    done = run("--api", place.url, "watch", job_id, "--timeout", "0.5", *form)
    assert done.returncode == 4
    assert f"{job_id} is still queued after 0.5 s" in done.stderr


def test_service_that_does_not_answer_exits_with_69() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_at_once:
        port = closed_at_once.getsockname()[1]
    done = run("--api", f"http://127.0.0.1:{port}", "jobs")
    assert done.returncode == 69
    assert "synthclone up" in done.stderr


def test_setting_that_cannot_be_exits_with_78() -> None:
    done = run("migrate", SYNTHCLONE_MODE="cluster")
    assert done.returncode == 78
    assert "auth=keys" in done.stderr


def test_interrupted_watch_exits_with_130_and_says_how_to_go_on(place: Place) -> None:
    job_id = submitted(place, *TRAIN)
    command = [sys.executable, "-m", "client.main", "--api", place.url, "watch", job_id, "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=clean_environment()) as watching:
        assert watching.stdout is not None
        assert "queued" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, messages = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert f"synthclone watch {job_id}" in messages


def test_cancel_and_retry_tell_what_became_of_the_job(place: Place) -> None:
    job_id = submitted(place, *TRAIN)
    assert submitted(place, "cancel", job_id) == "cancelled"
    assert submitted(place, "retry", job_id).startswith("tr-")


def test_results_are_empty_before_the_first_test(place: Place) -> None:
    assert submitted(place, "results", "--csv").startswith("evaluation,training,trained on")


def test_doctor_names_unknown_variables_and_missing_weights_with_remedies(place: Place, tmp_path: Path) -> None:
    variables = {"SYNTHCLONE_MODELS_DIR": str(tmp_path / "none"), "SYNTHCLONE_DATA_DIR": str(tmp_path)}
    done = run("--api", place.url, "--json", "doctor", SYNTHCLONE_BATCHSIZE="8", **variables)
    found = {line["part"]: line for line in json.loads(done.stdout)["findings"]}
    assert done.returncode == 78
    assert [found[part]["verdict"] for part in ("api", "database", "objects", "lexicon")] == ["ok"] * 4
    assert "SYNTHCLONE_BATCHSIZE" in found["variables"]["detail"]
    assert "SYNTHCLONE_MODELS_DIR" in found["weights"]["detail"]


def test_created_key_opens_the_api(serve_api: ServeApi, lexicon_path: Path, tmp_path: Path) -> None:
    variables = {"SYNTHCLONE_DATA_DIR": str(tmp_path), "SYNTHCLONE_AUTH": "keys", "SYNTHCLONE_KEY_PEPPER": "p" * 32}
    assert run("migrate", **variables).returncode == 0
    key = run("keys", "create", "--team", "vision", **variables).stdout.strip()
    settings = Settings(data_dir=tmp_path, lexicon_path=lexicon_path, auth="keys", key_pepper="p" * 32)
    url = str(serve_api(settings).base_url)
    assert run("jobs", "--api", url, SYNTHCLONE_API_TOKEN=key).returncode == 0
    assert run("jobs", "--api", url).returncode == 3


def test_commands_that_only_talk_to_the_api_load_no_service_and_no_torch() -> None:
    heavy = "{'torch', 'sqlalchemy', 'fastapi', 'nltk', 'celery', 'services'}"
    code = f"import sys, client.main; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_version_is_the_installed_one() -> None:
    assert run("--version").stdout.startswith("synthclone ")


def test_global_options_move_before_the_command_with_their_values() -> None:
    given = ["watch", "ds-1", "--json", "--api", "http://a", "--timeout", "3", "--api=http://b"]
    assert globals_first(given) == ["--json", "--api", "http://a", "--api=http://b", "watch", "ds-1", "--timeout", "3"]


def test_classes_are_a_list_name_or_ids_or_the_lines_of_a_file(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("# birds\nn02012849  # crane\n\npapillon dog\n")
    assert read_classes("in100") == "in100"
    assert read_classes("n02012849,n03126707") == ["n02012849", "n03126707"]
    assert read_classes(str(own)) == ["n02012849", {"name": "papillon dog"}]


def test_classes_of_a_json_file_may_be_worded(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('[{"name": "crane", "description": "a large wading bird"}]')
    assert read_classes(str(own)) == [{"name": "crane", "description": "a large wading bird"}]
