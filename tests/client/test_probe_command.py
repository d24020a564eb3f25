"""`synthclone probe`: asked for and told as a process."""

import json
from hashlib import sha256
from pathlib import Path

from client import Client
from client.models import JobState
from shared import lifecycle
from shared.settings import Settings
from shared.storage import open_store
from shared.tables import Job
from tests.client.test_command_line import Place, place, run, submitted

__all__ = ["place"]
HUNDRED = ("submit", "--classes", "digits", "--per-class", "100")
REPORT = {
    "probe": "pr-1",
    "dataset": "ds-1",
    "benchmark": "digits",
    "points": [{"share": 0.1, "images": 100, "seed": seed, "top1": 0.9 + seed / 100} for seed in (0, 2)],
    "prediction": {"images": 1000, "times": 10.0, "top1": 0.98, "interval": [0.951, 0.991]},
    "notes": ["of a small network"],
}


def succeed(place: Place, tmp_path: Path, probe: str) -> None:
    data = json.dumps(REPORT).encode()
    open_store(Settings(data_dir=tmp_path)).put("probes/report", data)
    states: tuple[JobState, ...] = ("queued", "running", "succeeded")
    with place.database.write() as session:
        result = {"report_key": "probes/report", "report_sha256": sha256(data).hexdigest()}
        session.get_one(Job, probe).result = dict(result)
        session.flush()
        for state in states:
            assert lifecycle.transition(session, probe, state)


def test_a_probe_waits_for_a_dataset_that_is_drawn(place: Place) -> None:
    dataset = submitted(place, *HUNDRED)
    shares = ("--share", "0.02", "--share", "0.1", "--share", "0.3")
    probe = submitted(place, "probe", dataset, "--on", "digits", *shares, "--repeats", "2")
    with Client(place.url) as client:
        found = client.probes.get(probe)
    request = found.spec["request"]
    assert isinstance(request, dict)
    assert (found.job.state, found.job.counts.total, found.result) == ("waiting", 6, None)
    assert (request["dataset"], request["shares"]) == (dataset, [0.02, 0.1, 0.3])


def test_a_watched_probe_tells_what_it_predicts(place: Place, tmp_path: Path) -> None:
    words = ("probe", submitted(place, *HUNDRED), "--on", "digits", "--idempotency-key", "once")
    probe = submitted(place, *words)
    succeed(place, tmp_path, probe)
    done = run("--api", place.url, *words, "--watch")
    assert (done.returncode, done.stdout.strip()) == (0, probe)
    assert "100 images: 91.0 % top-1" in done.stderr
    assert "predicted for 1,000 images: 98.0 % top-1, 95 % of networks between 95.1 and 99.1 %" in done.stderr
    assert "note: of a small network" in done.stderr


def test_too_few_shares_are_an_error_of_usage(place: Place) -> None:
    done = run("--api", place.url, "probe", "ds-1", "--on", "digits", "--share", "0.1")
    assert (done.returncode, "shares" in done.stderr) == (2, True)


def test_a_probe_is_made_in_python(place: Place) -> None:
    with Client(place.url) as client:
        dataset = client.datasets.create(classes="digits", images_per_class=100)
        probe = client.probes.create(dataset=dataset.id, benchmark="digits", repeats=1)
        assert (probe.kind, probe.counts.total) == ("probe", 3)
        assert [job.id for job in client.jobs.list(kind="probe")] == [probe.id]
