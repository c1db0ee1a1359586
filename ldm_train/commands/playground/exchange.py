"""Pass one request on to an application: its body within a limit, its answer protected, and ended whatever is raised."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress

from ldm_train.util.messages import warn

Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class TooLargeError(Exception):
    """A request's body goes on after the limit."""


class Exchange:
    """A request and its answer.

    Args:
        limit: bytes of the body.
    """

    def __init__(self, scope: Message, receive: Receive, send: Send, *, limit: int) -> None:
        self.scope, self.receive, self.send, self.limit = scope, receive, send, limit
        self.count = 0
        self.started = self.ended = self.left = False

    @property
    def too_large(self) -> bool:
        """Whether the body went on after the limit."""
        return self.count > self.limit

    async def receive_limited(self) -> Message:
        """Return the next part of the request.

        Raises:
            TooLargeError: the body goes on after the limit.
        """
        message = await self.receive()
        body = message.get("body", b"")
        assert isinstance(body, bytes)
        self.count += len(body)
        self.left = self.left or message["type"] == "http.disconnect"
        if self.too_large:
            raise TooLargeError
        return message

    async def send_protected(self, message: Message) -> None:
        """Send a part of the answer; what an application says about a body that is too large is left out."""
        if self.too_large and not self.started:
            return
        if message["type"] == "http.response.start":
            self.started = True
            own = message.get("headers", [])
            assert isinstance(own, list)
            kept = [pair for pair in own if pair[0].decode().lower() not in HEADERS]
            message = {**message, "headers": [*kept, *((k.encode(), v.encode()) for k, v in HEADERS.items())]}
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self.send(message)

    async def run(self, app: App, is_closing: Callable[[], bool]) -> None:
        """Let an application answer; an error of it is one line in the terminal, and the answer ends.

        Args:
            is_closing: whether a cancellation is the server's end, after which no task is needed.
        """
        try:
            await app(self.scope, self.receive_limited, self.send_protected)
        except asyncio.CancelledError:
            if not is_closing():
                raise
        except Exception as error:
            if not (self.too_large or self.left or is_answer(error)):
                warn(f"{self.scope['method']} {self.scope['path']} failed: {type(error).__name__}: {error}")
        await self.end(503 if is_closing() else 500)

    async def end(self, status: int) -> None:
        """End an answer that the application left open."""
        if self.too_large and not self.started:
            await answer(self.send, 413, f"a request may have at most {self.limit:,} bytes")
        elif not self.started:
            await answer(self.send, status, "this request cannot be answered")
        elif not self.ended:
            with suppress(Exception):  # the length that was announced may not be reached
                await self.send({"type": "http.response.body", "body": b""})


def is_answer(error: Exception) -> bool:
    """Return whether an error is a status for the client, such as 404, also one that came after the answer's start."""
    return hasattr(error, "status_code") or hasattr(error.__cause__, "status_code")


async def answer(send: Send, status: int, text: str, **headers: str) -> None:
    """Answer a request with a plain text."""
    pairs = {"content-type": "text/plain; charset=utf-8", **HEADERS, **headers}
    listed = [(name.encode(), value.encode("latin-1")) for name, value in pairs.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": text.encode()})
