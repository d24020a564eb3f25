"""One request: to the address that was checked, verified by name, signed, and bounded in time and size."""

import socket
import ssl
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook as Verifier

from services.webhooks.addresses import Address
from services.webhooks.outbox import Message, Outcome
from services.webhooks.post import Door, post, resolve
from shared.webhooks import secret_of
from tests.webhooks.receiver import Receiver, answer_status, receiving

PAYLOAD = {"type": "job.succeeded", "data": {"id": "ds-1"}}


def is_loopback(address: Address) -> bool:
    return address.is_loopback


class Names:
    """Answers each question about a name with the next of these lists of addresses."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.answers.pop(0)


class Sender(NamedTuple):
    receiver: Receiver
    pepper: SecretStr

    def send(self, door: Door | None = None, *, attempts: int = 1, seconds: float = 10) -> Outcome:
        message = Message(7, "wh-1", self.receiver.url, dict(PAYLOAD), datetime.now(UTC), attempts)
        door = door or Door((self.receiver.place,), is_loopback)

        async def run() -> Outcome:
            return await post(message, door, pepper=self.pepper, tls=self.receiver.tls, seconds=seconds)

        return anyio.run(run)


@pytest.fixture
def sender(receiver: Receiver, pepper: SecretStr) -> Sender:
    return Sender(receiver, pepper)


def test_a_message_arrives_signed_as_the_specifications_library_expects(sender: Sender) -> None:
    assert sender.send() == Outcome(None)
    ((path, headers, body),) = sender.receiver.requests
    assert path == "/hooks?team=a"
    assert (headers["host"], headers["webhook-id"]) == (sender.receiver.place, "msg_1_7")
    assert Verifier(secret_of("wh-1", sender.pepper)).verify(body, headers) == PAYLOAD


def test_a_host_on_a_private_address_is_never_asked(sender: Sender) -> None:
    refused = sender.send(Door((sender.receiver.place,)))
    assert refused == Outcome("localhost has no public address")
    assert sender.receiver.requests == []


def test_a_name_the_resolver_cannot_encode_is_a_failure(sender: Sender) -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise UnicodeError("label empty or too long")

    outcome = sender.send(Door((sender.receiver.place,), is_loopback, resolve))
    assert outcome == Outcome("UnicodeError: label empty or too long")


def test_a_name_that_changes_its_address_gets_the_request_at_the_one_that_was_checked(
    tmp_path: Path, pepper: SecretStr
) -> None:
    with receiving(tmp_path, name="hooks.test") as receiver:  # which no other resolver knows
        names = Names(["127.0.0.1"], ["169.254.169.254"])
        assert Sender(receiver, pepper).send(Door((receiver.place,), is_loopback, names)) == Outcome(None)
    assert names.asked == ["hooks.test"]
    assert receiver.requests[0][1]["host"] == receiver.place


def test_of_a_names_addresses_only_the_public_ones_are_tried_in_turn(sender: Sender) -> None:
    tried: list[str] = []
    names = Names(*[["10.0.0.1", "127.0.0.2", "127.0.0.1"]] * 2)
    for attempt in (1, 2):
        door = Door((sender.receiver.place,), is_loopback, names)
        tried.append(str(sender.send(door, attempts=attempt).error))
    assert tried[0].startswith("ConnectError")  # the receiver does not listen on 127.0.0.2
    assert tried[1] == "None"


def test_a_host_that_is_not_allowed_any_more_is_not_asked(sender: Sender) -> None:
    refused = sender.send(Door(("other.example.org",), is_loopback))
    assert "may not go to localhost" in str(refused.error)
    assert sender.receiver.requests == []


def test_a_certificate_of_another_name_is_refused(tmp_path: Path, pepper: SecretStr) -> None:
    with receiving(tmp_path, certified="other.example.org") as receiver:
        refused = Sender(receiver, pepper).send()
    assert "certificate verify failed: Hostname mismatch" in str(refused.error)
    assert receiver.requests == []


def test_a_certificate_nobody_vouches_for_is_refused(sender: Sender) -> None:
    sender.receiver.tls = ssl.create_default_context()
    assert "certificate verify failed" in str(sender.send().error)


def test_a_redirect_is_a_failure_and_is_not_followed(sender: Sender) -> None:
    sender.receiver.answer = answer_status(307, location=sender.receiver.url)
    assert sender.send() == Outcome("status 307; redirects are not followed")
    assert len(sender.receiver.requests) == 1


def test_gone_means_never_again(sender: Sender) -> None:
    sender.receiver.answer = answer_status(410)
    assert sender.send() == Outcome("status 410", gone=True)


def test_a_proxy_of_the_environment_is_not_used(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert sender.send() == Outcome(None)


def test_an_endless_answer_is_read_no_further_than_64_kilobytes(sender: Sender) -> None:
    written = 0

    def pour(handler: BaseHTTPRequestHandler) -> None:
        nonlocal written
        handler.send_response(200)
        handler.end_headers()
        while written < 2**30:
            written += handler.wfile.write(bytes(65_536))

    sender.receiver.answer = pour
    assert sender.send() == Outcome(None)
    assert written < 2**26


def test_an_answer_that_trickles_is_given_up(sender: Sender) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        while True:
            handler.wfile.write(b"X")
            time.sleep(0.05)

    sender.receiver.answer = trickle
    assert sender.send(seconds=0.5) == Outcome("no answer within 0.5 s")


def test_a_name_that_does_not_exist_is_a_failure(sender: Sender) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    door = Door((sender.receiver.place,), is_loopback, unknown)
    assert sender.send(door) == Outcome("gaierror: [Errno -2] Name or service not known")


def test_the_address_of_this_machine_is_found() -> None:
    assert {ip_address(found).is_loopback for found in resolve("localhost", 443)} == {True}
