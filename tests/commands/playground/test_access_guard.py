"""The guard lets through what the page asks for, and nothing from elsewhere, without the token, or too large."""

import asyncio

import pytest

from ldm_train.commands.playground import access_guard
from ldm_train.commands.playground.access_guard import AccessGuard, Message
from ldm_train.commands.playground.exchange import Exchange, TooLargeError
from ldm_train.commands.playground.listening import Address
from ldm_train.util.messages import collecting_messages

TOKEN = "a-token-of-some-length"
LOCAL, OPEN = Address("127.0.0.1", 7860, None), Address("0.0.0.0", 7860, TOKEN)
HOST = {"host": "127.0.0.1:7860"}


def ask(
    address: Address, path: str = "/", method: str = "GET", query: str = "", body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of an answer; what is let through is answered with 200 and its body."""

    async def echo(scope: Message, receive: access_guard.Receive, send: access_guard.Send) -> None:
        content = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": content})

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in (HOST | headers).items()]
    scope = {"type": "http", "path": path, "method": method, "query_string": query.encode(), "headers": pairs}
    asyncio.run(AccessGuard(echo, address)(scope, receive, send))
    found = sent[0]["headers"]
    assert isinstance(found, list)
    content = sent[1]["body"]
    assert isinstance(content, bytes)
    return int(str(sent[0]["status"])), {k.decode(): v.decode() for k, v in found}, content


def test_the_page_is_let_through_with_headers_that_protect_it() -> None:
    status, headers, _ = ask(LOCAL)
    assert status == 200
    assert headers["x-own"] == "1"
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST:7860", "[::1]:7860"])
def test_names_of_this_machine_are_accepted(host: str) -> None:
    assert ask(LOCAL, host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1:80", "127.0.0.1", "localhost.evil.example:7860", ""])
def test_another_host_is_refused_as_by_a_name_that_was_bound_anew(host: str) -> None:
    status, _, text = ask(LOCAL, host=host)
    assert status == 403
    assert b"127.0.0.1:7860" in text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:80"])
def test_what_another_site_sends_is_refused(origin: str) -> None:
    assert ask(LOCAL, "/gradio_api/queue/join", "POST", origin=origin)[0] == 403
    assert ask(LOCAL, "/gradio_api/queue/join", "POST", origin="http://127.0.0.1:7860")[0] == 200
    assert ask(LOCAL, "/gradio_api/queue/join", "POST")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/config", "/gradio_api/info", "/gradio_api/queue/data", "/playground.js", "/assets/index.js"),
        *("/pictures/a/b.png", "/uploads/x.png", "/gradio_api/call/draw/1"),
    ],
)
def test_without_the_token_nothing_is_answered(path: str) -> None:
    assert ask(OPEN, path)[0] == 401
    assert ask(OPEN, path, authorization=f"Bearer {TOKEN[:-1]}")[0] == 401
    assert ask(OPEN, path, authorization=f"Basic {TOKEN}")[0] == 401
    assert ask(OPEN, path, cookie="ldm_train_7860=other")[0] == 401
    assert ask(OPEN, path, cookie="\x01=;;")[0] == 401
    assert ask(OPEN, path, authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask(OPEN, path, cookie=f"ldm_train_7860={TOKEN}", host="any.example")[0] == 200


@pytest.mark.parametrize("path", ["/uploads", "/gradio_api/queue/join", "/gradio_api/call/draw", "/gradio_api/cancel"])
def test_nothing_can_be_sent_without_the_token(path: str) -> None:
    assert ask(OPEN, path, "POST", query=f"token={TOKEN}")[0] == 401, "in an address only the page takes it"
    assert ask(OPEN, path, "POST", authorization=f"bearer {TOKEN}")[0] == 200


def test_the_link_with_the_token_becomes_a_cookie() -> None:
    status, headers, _ = ask(OPEN, query=f"token={TOKEN}")
    assert (status, headers["location"]) == (303, "/")
    assert TOKEN in headers["set-cookie"]
    assert "HttpOnly" in headers["set-cookie"]
    assert ask(OPEN, query="token=wrong")[0] == 401
    assert ask(OPEN, query="token=wrong", authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask(OPEN, query="token=%C3%A9")[0] == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://example.org/"),
        ("GET", "/monitoring/summary"),
        ("GET", "/assets/../../secret"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/run/draw"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/run-history/connect"),
        ("POST", "/gradio_api/vibe-edit"),
        ("PUT", "/uploads"),
        ("DELETE", "/"),
    ],
)
def test_routes_that_the_page_does_not_need_are_closed(method: str, path: str) -> None:
    assert ask(LOCAL, path, method)[0] == 404


def test_a_body_is_limited_whether_it_says_its_length_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_guard, "LARGEST_BODY", 10)
    assert ask(LOCAL, "/uploads", "POST", body=b"1" * 10)[2] == b"1" * 10
    assert ask(LOCAL, "/uploads", "POST", content_length="11")[0] == 413
    assert ask(LOCAL, "/uploads", "POST", content_length="-1")[0] == 413
    assert ask(LOCAL, "/uploads", "POST", body=b"1" * 11)[0] == 413


def exchange(app: access_guard.App, body: bytes = b"", *, limit: int = 10) -> list[Message]:
    """What is sent to a client whom an application answers."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/uploads"}
    asyncio.run(Exchange(scope, receive, send, limit=limit).run(app, lambda: False))
    return sent


@pytest.mark.parametrize("raises", [False, True])
def test_a_body_that_goes_on_is_too_large_whatever_the_application_says(raises: bool) -> None:
    async def say_failed(scope: Message, receive: access_guard.Receive, send: access_guard.Send) -> None:
        try:
            await receive()
        except TooLargeError as error:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"failed"})
            if raises:
                raise RuntimeError from error

    start, end = exchange(say_failed, b"1" * 11)
    assert start["status"] == 413
    assert b"10" in end["body"]  # type: ignore[operator]


class StatusError(Exception):
    status_code = 404


@pytest.mark.parametrize(("error", "reported"), [(StatusError(), False), (KeyError("lost"), True)])
@pytest.mark.parametrize("started", [False, True])
def test_an_error_ends_the_answer_and_is_one_line(error: Exception, reported: bool, started: bool) -> None:
    async def fail(scope: Message, receive: access_guard.Receive, send: access_guard.Send) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    with collecting_messages() as messages:
        *_, start, end = exchange(fail)
    assert start["status"] == (200 if started else 500)
    assert not end.get("more_body")
    assert [("KeyError" in line, "\n" in line) for line in messages] == [(True, False)] * reported


def test_a_server_that_ends_ends_its_streams() -> None:
    sent: list[Message] = []

    async def stream(scope: Message, receive: access_guard.Receive, send: access_guard.Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(1000)

    async def keep(message: Message) -> None:
        sent.append(message)

    async def stop() -> None:
        guard = AccessGuard(stream, LOCAL)
        scope = {
            "type": "http",
            "path": "/",
            "method": "GET",
            "query_string": b"",
            "headers": [(b"host", b"localhost:7860")],
        }
        task = asyncio.create_task(guard(scope, keep, keep))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        guard.close()
        await asyncio.wait_for(task, 5)

    asyncio.run(stop())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("path", ["/gradio_api/heartbeat/a\x00b", "/uploads/a\nb", "/gradio_api/heartbeat/" + "a" * 400])
def test_a_path_that_no_page_asks_for_is_refused(path: str) -> None:
    assert ask(LOCAL, path)[0] == 404


def test_no_websocket_is_opened() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def never(*_: object) -> None:
        raise AssertionError

    asyncio.run(AccessGuard(never, LOCAL)({"type": "websocket", "path": "/", "headers": []}, never, send))  # type: ignore[arg-type]
    assert sent[0]["type"] == "websocket.close"
