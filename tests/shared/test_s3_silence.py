"""An S3 server that takes the connection and never answers must not hang a worker."""

import socket
from collections.abc import Iterator

import pytest
import urllib3

from shared.errors import Unavailable
from shared.s3_store import S3Store
from tests.s3_servers import s3_settings


@pytest.fixture
def silent() -> Iterator[str]:
    """host:port of a server whose backlog takes connections that nobody serves."""
    with socket.create_server(("127.0.0.1", 0), backlog=20) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def pool_of(store: S3Store) -> dict[str, object]:
    pool: dict[str, object] = store.client._http.connection_pool_kw
    return pool


def test_the_client_waits_seconds_and_tries_few_times(silent: str) -> None:
    pool = pool_of(S3Store(s3_settings(silent)))
    timeout, retries = pool["timeout"], pool["retries"]
    assert isinstance(timeout, urllib3.Timeout)
    assert isinstance(retries, urllib3.Retry)
    assert (timeout.connect_timeout, timeout.read_timeout) == (5.0, 30.0)
    assert (retries.total, retries.read, pool["maxsize"]) == (2, 1, 32)


@pytest.mark.parametrize("call", ["put", "get", "check"])
def test_a_silent_server_is_given_up_after_the_read_timeout(silent: str, call: str) -> None:
    store = S3Store(s3_settings(silent))
    # The same client with a shorter wait: thirty seconds twice are too long for a test.
    pool_of(store)["timeout"] = urllib3.Timeout(connect=5.0, read=0.2)
    calls = {"put": lambda: store.put("key", b"data"), "get": lambda: store.get("key"), "check": store.check}
    with pytest.raises(Unavailable, match=r"Read timed out\. \(read timeout=0\.2\)"):
        calls[call]()
