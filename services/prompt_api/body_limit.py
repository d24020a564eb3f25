"""Refuse a body that is large, slow or compressed while it arrives, whatever its Content-Length says."""

import asyncio

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Nothing more is read of a refused body, so what follows on the connection is no request.
CLOSE = {"Connection": "close"}


class BodyLimit:
    def __init__(self, app: ASGIApp, *, most_bytes: int, most_seconds: float) -> None:
        self.app = app
        self.most_bytes = most_bytes
        self.most_seconds = most_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received, is_over = 0, scope["type"] != "http"
        coding = Headers(scope=scope).get("content-encoding", "identity")
        deadline = asyncio.get_running_loop().time() + self.most_seconds

        # HTTPExceptions, because FastAPI answers 400 to anything else that rises while it reads a body.
        async def receive_counted() -> Message:
            nonlocal received, is_over
            if coding != "identity" and not is_over:
                raise HTTPException(
                    415, f"content encoding {coding[:100]!r} is not taken; send the body as it is", CLOSE
                )
            try:
                async with asyncio.timeout_at(None if is_over else deadline):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(
                    408, f"the body did not arrive within {self.most_seconds:g} s; send it faster", CLOSE
                ) from error
            is_over = is_over or not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self.most_bytes:
                raise HTTPException(413, f"the body is larger than {self.most_bytes} bytes; split the request", CLOSE)
            return message

        # Whoever answers before the body is over waits for nothing but the end of the connection.
        async def send_noting(message: Message) -> None:
            nonlocal is_over
            is_over = True
            await send(message)

        await self.app(scope, receive_counted, send_noting)
