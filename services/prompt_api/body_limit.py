"""Refuse a large body while it arrives, whatever its Content-Length says."""

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    def __init__(self, app: ASGIApp, *, most_bytes: int) -> None:
        self.app = app
        self.most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        # An HTTPException, because FastAPI answers 400 to anything else that rises while it reads a body.
        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.most_bytes:
                raise HTTPException(413, f"the body is larger than {self.most_bytes} bytes; split the request")
            return message

        await self.app(scope, receive_counted, send)
