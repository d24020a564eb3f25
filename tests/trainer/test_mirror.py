"""Trainings on an MLflow server: what it shows, and how little it matters when it does not."""

import base64
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from services.trainer.mirror import CLOSE_SECONDS, MOST_POINTS, Mirror, Shown
from services.trainer.ranks import Ranks
from services.trainer.run import Place, train
from shared.errors import Rejected
from shared.tables import Job, JsonObject

from .mlflow_servers import Books, mlflow_server, runs_of, serving
from .rows import add_training, claim, tiny_request

SHOWN = Shown("tr-1", {"seed": "0"}, {"team": "default"})


@pytest.fixture(params=["alike", "mlflow"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with serving(Books()) if request.param == "alike" else mlflow_server(tmp_path) as address:
        yield address


def run(place: Place, ranks: Ranks, stop: threading.Event | None = None) -> JsonObject | None:
    return train(place, claim(place.database), ranks, stop or threading.Event())


def values(run: dict[str, Any], kind: str) -> dict[str, Any]:
    return {each["key"]: each["value"] for each in run["data"][kind]}


def test_a_training_is_shown_with_its_recipe_and_curves(place: Place, alone: Ranks, uri: str) -> None:
    row = add_training(place.database, tiny_request(steps=12, seed=3))
    result = run(place._replace(mlflow_uri=uri), alone)
    [shown] = runs_of(uri)
    assert (shown["info"]["run_name"], shown["info"]["status"]) == (row, "FINISHED")
    parameters, metrics, tags = (values(shown, kind) for kind in ("params", "metrics", "tags"))
    expected = {"seed": "3", "optimizer": "adamw", "batch_size": "8", "accumulate": "1", "real": "digits-train"}
    assert parameters.items() >= expected.items()
    assert metrics["loss"] == pytest.approx((result or {})["final_loss"])
    assert metrics.keys() >= {"epoch", "loss", "lr", "images_per_second", "seconds"}
    assert {point["step"] for point in shown["data"]["metrics"]} == {12}
    assert tags.keys() >= {"version.torch", "version.timm", "version.synthclone", "team", "ranks"}


def test_a_resumed_training_goes_on_in_its_run(place: Place, alone: Ranks, uri: str) -> None:
    row = add_training(place.database, tiny_request(steps=12))
    stop = threading.Event()
    stop.set()
    shown_there = place._replace(mlflow_uri=uri)
    assert run(shown_there, alone, stop) is None
    assert [each["info"]["status"] for each in runs_of(uri)] == ["SCHEDULED"]
    with place.database.write() as session:
        session.execute(update(Job).where(Job.id == row).values(state="queued", lease_owner=None, lease_until=None))

    run(shown_there, alone)

    assert [each["info"]["status"] for each in runs_of(uri)] == ["FINISHED"]


def test_a_training_that_fails_is_shown_as_failed(place: Place, alone: Ranks) -> None:
    add_training(place.database, tiny_request(steps=30, optimizer="sgd", learning_rate=1000))
    with serving(Books()) as uri:
        with pytest.raises(Rejected):
            run(place._replace(mlflow_uri=uri), alone)
        assert [each["info"]["status"] for each in runs_of(uri)] == ["FAILED"]


@contextmanager
def deaf() -> Iterator[str]:
    """Accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def refusing() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def babbling() -> Iterator[str]:
    """Another service, which answers with what MLflow never would."""

    class Wrong(Books):
        def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
            return {"experiments": 3}

    with serving(Wrong()) as uri:
        yield uri


@contextmanager
def refused_by_method() -> Iterator[str]:
    """Speaks HTTP, but knows no POST."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("server", [deaf, refusing, babbling])
def test_a_server_that_does_not_answer_costs_one_warning_and_seconds(
    place: Place, alone: Ranks, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    add_training(place.database, tiny_request(steps=40))
    with server() as uri:
        began = time.monotonic()
        result = run(place._replace(mlflow_uri=uri), alone)
        spent = time.monotonic() - began
    assert (result or {})["steps"] == 40
    assert spent < CLOSE_SECONDS + 10
    assert [record.message for record in caplog.records if "MLflow" in record.message] == [
        "MLflow does not answer; the training goes on without it"
    ]


def test_what_is_added_while_the_server_is_away_is_bounded_and_the_newest() -> None:
    with refusing() as uri:
        mirror = Mirror(uri, SHOWN)
        for step in range(MOST_POINTS + 5):
            mirror.add(step, {"loss": 1.0})
    assert [mirror._waiting[0].step, mirror._waiting[-1].step] == [5, MOST_POINTS + 4]


def test_many_points_are_sent_in_requests_that_the_server_takes() -> None:
    books = Books()
    with serving(books) as uri:
        with Mirror(uri, SHOWN) as mirror:
            for step in range(1500):
                mirror.add(step, {"loss": float(step), "lr": 1.0})
        assert values(books.runs[0], "metrics") == {"loss": 1499.0, "lr": 1.0}


def test_the_name_and_password_of_the_address_are_sent_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    books = Books()
    with serving(books) as uri, Mirror(uri.replace("//", "//ann:se%40cret@"), SHOWN):
        pass
    assert books.logins[0] == "Basic " + base64.b64encode(b"ann:se@cret").decode()
    with refused_by_method() as uri, Mirror(uri.replace("//", "//ann:secret@"), SHOWN):
        pass
    reason: str = caplog.records[-1].reason  # type: ignore[attr-defined]
    assert re.search(r"/api/2\.0/mlflow/experiments/search answered 501", reason)
    assert "secret" not in reason
