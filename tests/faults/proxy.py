"""A TCP proxy on loopback whose link can be cut, reset, slowed, silenced or made to answer for its server."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

CHUNK = 65_536
# A TCP reset instead of a polite end: linger for zero seconds.
RESET = struct.pack("ii", 1, 0)
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BUSY), BUSY)
)


@dataclass(frozen=True)
class Link:
    """What the proxy does to bytes; the default passes them on."""

    is_silent: bool = False
    is_reset: bool = False
    delay_seconds: float = 0.0
    most_bytes: int | None = None
    """A client's bytes beyond this are dropped and the connection ends: an upload cut short."""
    answer: bytes | None = None
    """Sent instead of asking the server."""


GOOD = Link()


@dataclass
class Cut:
    """Resets the connection when `marker` passes towards the server: before it arrives, or before its answer does."""

    marker: bytes
    every: int
    is_delivered: bool
    seen: int = 0
    hits: int = 0

    def strikes(self, data: bytes) -> bool:
        if self.marker not in data:
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.hits += 1
        return True


@dataclass
class Hold:
    """The first `marker` towards the server arrives there, and nothing the server says after it comes back."""

    marker: bytes
    struck: threading.Event = field(default_factory=threading.Event)


class Connection:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.is_held = False

    def close(self, *, reset: bool) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Listens at `address` while the block runs; set `link`, `cut` and `hold` at any time."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.cut: Cut | None = None
        self.hold: Hold | None = None
        self._link = GOOD
        self._is_open = True
        self._connections: set[Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def link(self) -> Link:
        return self._link

    @link.setter
    def link(self, link: Link) -> None:
        self._link = link
        if link.is_reset or link.answer:
            self.drop()

    def drop(self) -> None:
        """Reset every open connection."""
        for connection in list(self._connections):
            connection.close(reset=True)

    def close(self) -> None:
        self._is_open = False
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        while self._is_open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._open, args=(client,), daemon=True).start()

    def _open(self, client: socket.socket) -> None:
        self._wait_while_silent()
        if self._link.answer is not None:
            answer(client, self._link.answer)
            return
        server = socket.socket()
        connection = Connection(client, server)
        if self._link.is_reset or server.connect_ex(("127.0.0.1", self.target_port)) != 0:
            connection.close(reset=True)
            return
        self._connections.add(connection)
        pumps = ((client, server, self._to_server(connection)), (server, client, to_client(connection)))
        for source, target, change in pumps:
            arguments = (connection, source, target, change)
            threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(
        self,
        connection: Connection,
        source: socket.socket,
        target: socket.socket,
        change: Callable[[bytes], bytes],
    ) -> None:
        reset = False
        try:
            while data := source.recv(CHUNK):
                self._wait_while_silent()
                time.sleep(self._link.delay_seconds)
                target.sendall(change(data))
        except OSError:
            reset = True
        self._connections.discard(connection)
        connection.close(reset=reset)

    def _to_server(self, connection: Connection) -> Callable[[bytes], bytes]:
        sent = 0

        def change(data: bytes) -> bytes:
            nonlocal sent
            sent += len(data)
            most = self._link.most_bytes
            if most is not None and sent > most:
                connection.server.sendall(data[: max(0, len(data) - (sent - most))])
                raise ConnectionAbortedError("cut short")
            cut = self.cut
            if cut is not None and cut.strikes(data):
                if cut.is_delivered:
                    connection.server.sendall(data)
                    time.sleep(0.05)  # the server works on it; its answer meets a closed link
                connection.close(reset=True)
                raise ConnectionResetError("cut")
            hold = self.hold
            if hold is not None and hold.marker in data and not hold.struck.is_set():
                connection.is_held = True
                connection.server.sendall(data)
                hold.struck.set()
                return b""
            return data

        return change

    def _wait_while_silent(self) -> None:
        while self._link.is_silent and self._is_open:
            time.sleep(0.02)


def to_client(connection: Connection) -> Callable[[bytes], bytes]:
    return lambda data: b"" if connection.is_held else data


def answer(client: socket.socket, response: bytes) -> None:
    with contextlib.suppress(OSError), client:
        client.settimeout(2)
        client.recv(CHUNK)
        client.sendall(response)
        client.shutdown(socket.SHUT_WR)
        while client.recv(CHUNK):  # a close with unread bytes would reset the answer away
            pass
