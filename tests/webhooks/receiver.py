"""A user's HTTPS server on loopback with a certificate of its own authority, and a sender that may talk to it."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

HOST = "localhost"
Answer = Callable[[BaseHTTPRequestHandler], None]


class Receiver:
    """What arrived, and how to answer: by default with 204."""

    def __init__(self, name: str, port: int, authority: ssl.SSLContext) -> None:
        self.name, self.port, self.tls = name, port, authority
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Answer = answer_status(204)

    @property
    def place(self) -> str:
        return f"{self.name}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.place}/hooks?team=a"


def answer_status(status: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return answer


@contextmanager
def receiving(folder: Path, *, name: str = HOST, certified: str | None = None) -> Iterator[Receiver]:
    """The authority's certificate is `folder/ca.pem`; the server's is for its name, or for another."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    client_tls, server_tls = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(client_tls)
    authority.issue_cert(certified or name).configure_cert(server_tls)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
            receiver.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(name, server.server_port, client_tls)
        server.socket = server_tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
