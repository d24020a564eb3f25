"""One signed HTTPS request to an address that was checked, and to no other."""

import json
import socket
import ssl
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from time import time
from typing import NamedTuple

import anyio
import httpx2
from pydantic import SecretStr
from pydantic_core import Url

from shared.errors import AppError, Rejected
from shared.webhooks import checked_url, secret_bytes, signature

from .addresses import Address, is_public
from .outbox import Message, Outcome

CONNECT_SECONDS, TOTAL_SECONDS = 5.0, 10.0
MOST_ANSWER_BYTES = 65_536
GONE = 410

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """The host's addresses, the likeliest to be reachable first."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Door(NamedTuple):
    """Where messages may go: hosts by name, then the addresses that a name stands for."""

    allowed_hosts: tuple[str, ...]
    is_allowed: Callable[[Address], bool] = is_public
    resolve: Resolve = resolve


async def post(
    message: Message, door: Door, *, pepper: SecretStr, tls: ssl.SSLContext, seconds: float = TOTAL_SECONDS
) -> Outcome:
    """Never raises for what the receiver or the network does: that is the outcome."""
    try:
        with anyio.fail_after(seconds):
            url = checked_url(message.url, door.allowed_hosts)
            address = await checked_address(url, door, attempt=message.attempts)
            return await send(message, url, address, pepper=pepper, tls=tls)
    except TimeoutError:
        return Outcome(f"no answer within {seconds:g} s")
    except AppError as error:
        return Outcome(error.detail)
    # ValueError: a name that the resolver cannot encode.
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        return Outcome(f"{type(error).__name__}: {error}"[:500])


async def checked_address(url: Url, door: Door, *, attempt: int) -> Address:
    """One of the addresses that the name has at this moment; another at the next attempt. Raises Rejected.

    The connection goes to the address itself: a name that means something else a moment later changes nothing.
    """
    host, port = url.host or "", url.port or 443
    found = await anyio.to_thread.run_sync(door.resolve, host, port, abandon_on_cancel=True)
    allowed = [address for address in map(ip_address, found) if door.is_allowed(address)]
    if not allowed:
        raise Rejected(f"{host} has no public address")
    return allowed[(attempt - 1) % len(allowed)]


async def send(message: Message, url: Url, address: Address, *, pepper: SecretStr, tls: ssl.SSLContext) -> Outcome:
    body = json.dumps(message.payload, separators=(",", ":")).encode()
    timeout = httpx2.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS)
    # trust_env: a proxy from the environment would resolve the name a second time, and see what we send.
    async with httpx2.AsyncClient(verify=tls, trust_env=False, follow_redirects=False, timeout=timeout) as client:
        request = client.build_request(
            "POST",
            f"https://{bracketed(address)}:{url.port}{url.path}{'?' + url.query if url.query else ''}",
            content=body,
            headers=headers(message, url, body, pepper),
            # The certificate is checked for the name.
            extensions={"sni_hostname": url.host},
        )
        response = await client.send(request, stream=True)
        try:
            await drain(response)
        finally:
            await response.aclose()
    return outcome(response)


def bracketed(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def headers(message: Message, url: Url, body: bytes, pepper: SecretStr) -> dict[str, str]:
    timestamp = int(time())
    return {
        "host": url.host or "" if url.port == 443 else f"{url.host}:{url.port}",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": "synthclone-webhooks",
        "webhook-id": message.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret_bytes(message.webhook_id, pepper), message.id, timestamp, body),
    }


async def drain(response: httpx2.Response) -> None:
    """What it answers is of no interest; reading a little of it lets a polite server finish."""
    read = 0
    async for chunk in response.aiter_raw():
        read += len(chunk)
        if read > MOST_ANSWER_BYTES:
            return


def outcome(response: httpx2.Response) -> Outcome:
    if response.is_success:
        return Outcome(None)
    hint = "; redirects are not followed" if response.is_redirect else ""
    return Outcome(f"status {response.status_code}{hint}", gone=response.status_code == GONE)
