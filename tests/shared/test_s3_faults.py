"""What the store makes of an S3 server that errs, lies or hangs up: a stub that speaks HTTP answers for it."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from shared.errors import AppError, NotFound, Unavailable
from shared.storage import S3Store
from tests.addresses import free_port
from tests.s3_servers import s3_settings

DATA = b"the bytes of a shard"
MD5 = hashlib.md5(DATA).hexdigest()


class Answer:
    """One HTTP answer; `cut` ends the connection that many bytes into the body."""

    def __init__(self, status: int, body: bytes = b"", *, cut: int | None = None, **headers: str) -> None:
        self.status, self.body, self.cut = status, body, cut
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def refused(status: int, code: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return Answer(status, body, content_type="application/xml")


@contextmanager
def served(answers: dict[str, Answer]) -> Iterator[S3Store]:
    """A store whose server gives one answer per HTTP method."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            answer = answers[self.command]
            self.send_response_only(answer.status)
            headers = {"date": format_datetime(datetime.now(UTC), usegmt=True)} | answer.headers
            if self.command != "HEAD":
                headers["content-length"] = str(len(answer.body))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: answer.cut])
            self.close_connection = answer.cut is not None

        do_GET = do_PUT = do_HEAD = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield S3Store(s3_settings(f"127.0.0.1:{server.server_address[1]}"))
    finally:
        server.shutdown()
        server.server_close()


def stored(*, size: int = len(DATA), etag: str = MD5, **headers: str) -> dict[str, Answer]:
    """A server that says yes to an upload, and then describes what it holds."""
    head = Answer(200, content_length=str(size), etag=f'"{etag}"', **headers)
    return {"PUT": Answer(200, etag=f'"{etag}"'), "HEAD": head, "GET": Answer(200, b"other bytes altogether!")}


def test_an_upload_that_the_server_holds_is_done() -> None:
    with served(stored()) as store:
        store.put("key", DATA)


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(stored(size=7), id="cut short"),
        pytest.param(stored(etag="0" * 32), id="other bytes"),
        pytest.param(stored(etag="0123-2"), id="an etag that says nothing: read back"),
        pytest.param(stored(x_amz_server_side_encryption="aws:kms"), id="encrypted: read back"),
    ],
)
def test_a_good_answer_to_an_upload_that_is_not_stored_is_found_out(answers: dict[str, Answer]) -> None:
    with served(answers) as store, pytest.raises(Unavailable, match="does not hold what was sent"):
        store.put("key", DATA)


def everything_fails(answer: Answer) -> dict[str, Answer]:
    return dict.fromkeys(("GET", "PUT", "DELETE", "HEAD"), answer)


CALLS: dict[str, Callable[[S3Store], object]] = {
    "put": lambda store: store.put("key", DATA),
    "get": lambda store: store.get("key"),
    "size": lambda store: store.size("key"),
    "delete": lambda store: store.delete("key"),
    "entries": lambda store: list(store.entries("")),
    "check": lambda store: store.check(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("answer", [refused(503, "SlowDown"), refused(403, "AccessDenied"), Answer(502, b"<html>")])
def test_every_call_that_a_server_refuses_is_unavailable(call: str, answer: Answer) -> None:
    with served(everything_fails(answer)) as store, pytest.raises(Unavailable):
        CALLS[call](store)


@pytest.mark.parametrize("call", CALLS)
def test_every_call_to_a_server_that_is_gone_is_unavailable(call: str) -> None:
    with pytest.raises(Unavailable):
        CALLS[call](S3Store(s3_settings(f"127.0.0.1:{free_port()}")))


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (refused(403, "AccessDenied"), "SYNTHCLONE_S3_ACCESS_KEY"),
        (refused(403, "SignatureDoesNotMatch"), "SYNTHCLONE_S3_SECRET_KEY"),
        (refused(404, "NoSuchBucket"), "synthclone migrate"),
        (refused(403, "RequestTimeTooSkewed"), "set the clock of this machine"),
    ],
)
def test_what_an_operator_must_change_is_named(answer: Answer, remedy: str) -> None:
    with served(everything_fails(answer)) as store, pytest.raises(Unavailable, match=remedy):
        store.put("key", DATA)


def test_a_wrong_clock_is_named_even_where_the_server_only_says_no() -> None:
    """The answer to a HEAD request has no body, so no reason; its date tells."""
    elsewhere = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    refusal = Answer(403, date=elsewhere)
    with served({"HEAD": refusal}) as store, pytest.raises(Unavailable, match="clock of this machine, which is 36"):
        store.check()


def test_an_answer_cut_short_is_never_taken_for_the_object() -> None:
    with served({"GET": Answer(200, DATA, cut=5)}) as store, pytest.raises(Unavailable, match="cannot read"):
        store.get("key")


def test_a_missing_object_is_not_an_outage() -> None:
    with served(everything_fails(refused(404, "NoSuchKey"))) as store:
        assert store.size("key") is None
        with pytest.raises(AppError) as problem:
            store.get("key")
    assert type(problem.value) is NotFound
