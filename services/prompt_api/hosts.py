"""Which names the API answers to, and which web pages may make a browser change something.

Without keys, whatever reaches the port may do everything. A web page can reach it: by a name of its own that resolves
to 127.0.0.1 (DNS rebinding), or by a form. So then only loopback names are answered, and other sites' requests refused.
"""

import re

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.settings import LOOPBACK, Settings

from .problems import respond

READING = ("GET", "HEAD", "OPTIONS")
# Asked for by kubelets and load balancers, which use a pod's address as the name.
OPERATORS = ("/livez", "/readyz", "/metrics")
HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{0,5})?")
SHOWN_CHARACTERS = 100


class Hosts:
    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self.needs_no_key = settings.auth == "off"
        self.names = {*LOOPBACK, *(name.lower() for name in settings.trusted_hosts)}
        self.answers_to_any = not self.needs_no_key and not settings.trusted_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self.knows(headers.getlist("host"), scope["path"]):
            host = headers.get("host", "")[:SHOWN_CHARACTERS]
            detail = f"this server does not answer to the name {host!r}; known: {', '.join(sorted(self.names))}"
            kind = ("unknown-host", "The request is for another server")
            await respond(Request(scope), 421, kind, detail)(scope, receive, send)
        elif self.needs_no_key and scope["method"] not in READING and is_foreign(headers):
            origin = headers.get("origin", "another site")[:SHOWN_CHARACTERS]
            detail = f"a page of {origin} may change nothing here; open this server's own address, or send no Origin"
            kind = ("foreign-origin", "Another site's page may not do this")
            await respond(Request(scope), 403, kind, detail)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def knows(self, hosts: list[str], path: str) -> bool:
        if self.answers_to_any or (not self.needs_no_key and path in OPERATORS):
            return True
        return bool(hosts) and all(name_of(host) in self.names for host in hosts)


def name_of(host: str) -> str | None:
    """Without the port; None for what is no host name or address."""
    found = HOST.fullmatch(host)
    return (found["v6"] or found["name"]).lower().removesuffix(".") if found else None


def is_foreign(headers: Headers) -> bool:
    """Whether a browser says that a page from elsewhere sends this; other programs say nothing."""
    host = headers.get("host", "")
    origins = headers.getlist("origin")
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") or any(
        origin not in (f"http://{host}", f"https://{host}") for origin in origins
    )
