"""Headers of every answer, so that a browser runs, sniffs, frames, embeds and stores nothing it should not."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                guard(MutableHeaders(scope=message))
            await send(message)

        await self.app(scope, receive, send_guarded)


def guard(headers: MutableHeaders) -> None:
    for name, value in HEADERS.items():
        headers[name] = value
    is_page = headers.get("content-type", "").startswith("text/html")
    # A report brings a narrower one of its own.
    headers.setdefault("Content-Security-Policy", PAGE_POLICY if is_page else DATA_POLICY)
    # Answers hold a team's data and links that work without a key. One with an ETag may be kept, but is asked about.
    headers.setdefault("Cache-Control", "private, no-cache" if "etag" in headers else "no-store")
