"""Refuse requests that the page does not make: from other sites, without the token, to other routes, or too large.

It stands before everything else that is served, so no route can be reached around it.
"""

import asyncio
import hmac
import re
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from ldm_train.commands.playground.exchange import App, Exchange, Message, Receive, Send, answer
from ldm_train.commands.playground.listening import Address

LARGEST_BODY = 64 * 2**20  # bytes of one request
API = "/gradio_api"
# What the page and its clients ask for. Gradio has more routes, which read files, fetch addresses or change the page.
READ = (
    "/",
    "/config",
    "/config/",
    "/theme.css",
    "/favicon.ico",
    "/robots.txt",
    "/manifest.json",
    "/playground.js",
    f"{API}/info",
)
READ_BELOW = (
    *("/assets/", "/static/", "/svelte/", "/pictures/", "/uploads/"),
    *(f"{API}/{name}" for name in ("queue/data", "heartbeat/", "call/", "startup-events", "app_id", "theme.css")),
)
WRITE = ("/uploads", f"{API}/queue/join", f"{API}/cancel", f"{API}/reset")
WRITE_BELOW = (f"{API}/call/",)
PATH = re.compile(r"[\w/.@~+=-]{1,300}", re.ASCII)  # all that a page or a program asks for


class Refusal(NamedTuple):
    """A status of HTTP with the reason, in words."""

    status: int
    reason: str


class AccessGuard:
    """An ASGI application that lets requests through to another one."""

    def __init__(self, app: App, address: Address) -> None:
        self.app, self.address = app, address
        self.cookie = f"ldm_train_{address.port}"
        self.answering: set[asyncio.Task[None]] = set()
        self.closing = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = read_headers(scope)
        if (refusal := self.find_refusal(scope, headers)) is not None:
            await answer(send, refusal.status, refusal.reason)
        elif (query := self.read_token(scope)) is not None and self.is_token(query):
            await answer(send, 303, "", location="/", **{"set-cookie": self.write_cookie(query)})
        else:
            await self.pass_on(scope, receive, send)

    def find_refusal(self, scope: Message, headers: dict[str, str]) -> Refusal | None:
        """Return why a request is refused; None if it is not."""
        path, method, host = str(scope["path"]), str(scope["method"]), headers.get("host", "").lower()
        if self.address.hosts is not None and host not in self.address.hosts:
            return Refusal(403, f"this page is served as {self.address.url} only, and was asked for as {host}")
        if not self.knows_token(scope, headers):
            return Refusal(
                401,
                "this page needs its token: open the link that was printed where it was started, or send the header "
                "Authorization: Bearer TOKEN",
            )
        reads = method in ("GET", "HEAD")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host and not reads:
            return Refusal(403, f"requests from the site {origin} are refused")
        exact, below = (READ, READ_BELOW) if reads else (WRITE, WRITE_BELOW)
        known = (path in exact or path.startswith(below)) and (reads or method == "POST")
        if not known or ".." in path or PATH.fullmatch(path) is None:
            return Refusal(404, f"there is nothing at {method} {path}")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return Refusal(413, f"a request may have at most {LARGEST_BODY:,} bytes")
        return None

    def knows_token(self, scope: Message, headers: dict[str, str]) -> bool:
        """Return whether a request has the token: in its address, a cookie or the header Authorization."""
        if self.address.token is None:
            return True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = [self.read_token(scope) or "", bearer if kind.lower() == "bearer" else ""]
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        given += [cookies[self.cookie].value] if self.cookie in cookies else []
        return any(self.is_token(one) for one in given)

    def is_token(self, given: str) -> bool:
        """Return whether a text is the token; the time that it takes says nothing about the token."""
        return self.address.token is not None and hmac.compare_digest(given.encode(), self.address.token.encode())

    def read_token(self, scope: Message) -> str | None:
        """Return the token in the page's address; None if it has none, or if no token is needed."""
        query = scope.get("query_string", b"")
        assert isinstance(query, bytes)
        if self.address.token is None or scope["path"] != "/":
            return None
        return dict(parse_qsl(query.decode("latin-1"))).get("token")

    def write_cookie(self, token: str) -> str:
        """Return the cookie by which the browser is known from now on."""
        return f"{self.cookie}={token}; HttpOnly; SameSite=Lax; Path=/"

    async def pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request through, as long as its body is within the limit, and protect its answer."""
        task = asyncio.current_task()
        assert task is not None
        self.answering.add(task)
        try:
            await Exchange(scope, receive, send, limit=LARGEST_BODY).run(self.app, lambda: self.closing)
        finally:
            self.answering.discard(task)

    def close(self) -> None:
        """End all answers that go on, such as the streams by which pages wait for news."""
        self.closing = True
        for task in self.answering:
            task.cancel()


def read_headers(scope: Message) -> dict[str, str]:
    """Return a request's headers by their names in lower case."""
    pairs = scope["headers"]
    assert isinstance(pairs, list | tuple)
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}
