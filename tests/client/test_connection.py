"""What lies between the client and the API: gateways that refuse, break streams, or are something else."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from client import Client, ServiceUnreachable
from client.models import Job
from shared import lifecycle
from shared.database import Database
from shared.errors import ConfigurationError


class Gateway(ThreadingHTTPServer):
    """Passes requests on to the API, but first answers with `refusals`, and lets no event stream through."""

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Forward)
        self.upstream = httpx2.Client(base_url=upstream)
        self.refusals: list[int] = []
        self.keys: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Forward(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        if self.path.endswith("/events"):
            self.answer(200, b"<html>no streams here</html>")
        else:
            self.forward(b"")

    def do_POST(self) -> None:
        self.server.keys.append(self.headers["Idempotency-Key"])
        self.forward(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def forward(self, body: bytes) -> None:
        if self.server.refusals:
            self.answer(self.server.refusals.pop(0), b"")
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        answer = self.server.upstream.request(self.command, self.path, content=body, headers=headers)
        self.answer(answer.status_code, answer.content)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The tests' output stays readable."""


@pytest.fixture
def gateway(api_url: str, database: Database) -> Iterator[Gateway]:
    with Gateway(api_url) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
        server.upstream.close()


@pytest.mark.parametrize("status", [429, 502, 503])
def test_post_refused_for_the_moment_is_sent_again_with_the_same_key(gateway: Gateway, status: int) -> None:
    gateway.refusals = [status]
    with Client(gateway.url) as client:
        job = client.datasets.create(classes="digits", images_per_class=1)
        assert [known.id for known in client.jobs.list()] == [job.id]
    assert len(gateway.keys) == 2
    assert len(set(gateway.keys)) == 1


def test_other_errors_of_the_server_are_not_sent_again(gateway: Gateway) -> None:
    gateway.refusals = [500]
    with Client(gateway.url) as client, pytest.raises(ServiceUnreachable, match="500"):
        client.datasets.create(classes="digits", images_per_class=1)
    assert len(gateway.keys) == 1


def test_server_that_stays_away_is_unreachable_with_a_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_at_once:
        port = closed_at_once.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}") as client,
        pytest.raises(ServiceUnreachable, match="synthclone up") as raised,
    ):
        client.jobs.get("ds-1")
    assert raised.value.exit_code == 69


def test_events_are_polled_where_no_stream_gets_through(gateway: Gateway, database: Database) -> None:
    with Client(gateway.url) as client:
        job = client.trainings.create(real="digits-train", steps=1)
        events = client.jobs.events(job.id)
        assert next(events).payload == {"state": "queued", "done": 0, "failed": 0, "total": 1}
        with database.write() as session:
            lifecycle.transition(session, job.id, "cancelled")
        assert [event.payload["state"] for event in events] == ["cancelled"]


def test_answer_of_another_program_is_told_apart(gateway: Gateway) -> None:
    with Client(gateway.url) as client, pytest.raises(ServiceUnreachable, match="understand"):
        client.connection.get("/livez", Job)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "http://", "http://[::1"])
def test_address_that_is_no_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"http://127\.0\.0\.1:8000"):
        Client(url)
