"""The page as a server: programs draw through it, one after the other, and only with the token."""

import gc
import json
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

if find_spec("gradio") is None:
    pytest.skip("the extra playground is not installed", allow_module_level=True)

from PIL import Image

from ldm_train.commands.playground import access_guard
from ldm_train.commands.playground.listening import Address
from ldm_train.commands.playground.playground import Playground
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import PlaygroundSettings

PROMPT = "a black circle on a red background"
TOKEN = "a-token-of-this-test"
CLIENTS = 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # event loops of gradio
]


@pytest.fixture(scope="module")
def playground(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    settings = compose_as(PlaygroundSettings, [f"run_dir={trained}", "device=cpu", "steps=2"])
    made = Playground(settings, tmp_path_factory.mktemp("playground"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser(playground: Playground) -> Iterator[httpx.Client]:
    """A client that knows the token of a page, which a thread of this process serves."""
    listener = socket.create_server(("127.0.0.1", 0))
    page = Address("127.0.0.1", listener.getsockname()[1], TOKEN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        import uvicorn

        from ldm_train.commands.playground.web_app import Server, build_app

        app = build_app(playground, page)
        server = Server(uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1), app, playground)
        gc.collect()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.05)
    with httpx.Client(
        base_url=page.url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60, trust_env=False
    ) as client:
        yield client
        with ending(client):
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "a drawing or a stream kept the server"


@contextmanager
def ending(browser: httpx.Client) -> Iterator[None]:
    """Let the block end a server that draws a picture of many steps, to which a page listens."""
    with browser.stream("GET", "/gradio_api/heartbeat/page") as news:
        next(news.iter_lines())
        browser.post("/gradio_api/call/draw", json={"data": [PROMPT, {"steps": 1000}, ""]})
        time.sleep(0.3)
        yield


def call(browser: httpx.Client, prompt: str, settings: dict[str, object]) -> tuple[str, object]:
    """What `draw` answers: the event that ends it, and its data."""
    started = browser.post("/gradio_api/call/draw", json={"data": [prompt, settings, ""]})
    assert started.status_code == 200, started.text
    answer = browser.get(f"/gradio_api/call/draw/{started.json()['event_id']}").text
    kind, data = answer.strip().split("\n\n")[-1].split("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_the_page_asks_nobody_else(browser: httpx.Client) -> None:
    page = browser.get("/").text
    assert "fonts.googleapis" not in page
    assert "cdnjs" not in page
    assert browser.get("/playground.js").status_code == 200
    assert browser.get("/config").json()["analytics_enabled"] is False


def test_nothing_is_answered_without_the_token(browser: httpx.Client) -> None:
    for path in ("/", "/config", "/gradio_api/info", "/uploads/x.png", "/playground.js"):
        assert httpx.get(f"{browser.base_url}{path}", trust_env=False).status_code == 401


def test_programs_are_answered_one_after_the_other(browser: httpx.Client, playground: Playground) -> None:
    answers: dict[int, tuple[str, object]] = {}

    def ask(number: int) -> None:
        answers[number] = call(browser, PROMPT, {"seed": number})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    pictures = set()
    for number in range(CLIENTS):
        kind, data = answers[number]
        assert kind == "complete", data
        assert isinstance(data, list)
        assert number == 0 or f"seed={number}" in data[0]["command"]
        pictures.add(browser.get(data[0]["picture"]).content)
    assert len(pictures) == CLIENTS


def test_what_cannot_be_drawn_is_said(browser: httpx.Client) -> None:
    kind, data = call(browser, PROMPT, {"sampler": "no such sampler"})
    assert kind == "error"
    assert "no such sampler" in str(data)


def test_a_picture_is_sent_and_drawn_from(browser: httpx.Client, pictures: Path) -> None:
    sent = browser.post("/uploads", content=(pictures / "circle-red.png").read_bytes())
    assert sent.status_code == 200
    shown = browser.get(f"/uploads/{sent.text}")
    assert shown.headers["content-type"] == "image/png"
    kind, data = call(browser, PROMPT, {"picture": sent.text, "strength": 0.5})
    assert kind == "complete", data
    assert isinstance(data, list)
    assert f"picture={sent.text}" in data[0]["command"] or sent.text in data[0]["command"]


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n", b""])
def test_another_file_is_refused_in_words(content: bytes, browser: httpx.Client) -> None:
    answer = browser.post("/uploads", content=content)
    assert answer.status_code == 422
    assert "picture" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/uploads/..%2f..%2fplayground.json",
        "/uploads/%2e%2e/playground.json",
        "/pictures/%2e%2e/x",
        "/pictures/x/..%2f..%2fx",
        "/gradio_api/file=/etc/passwd",
        "/static/..%2f..%2f..%2fblocks.py",
    ],
)
def test_no_other_file_can_be_read(path: str, browser: httpx.Client) -> None:
    assert browser.get(path).status_code in (403, 404)


def test_a_picture_is_a_png_file_with_its_settings(browser: httpx.Client, tmp_path: Path) -> None:
    _, data = call(browser, PROMPT, {"seed": 9})
    assert isinstance(data, list)
    answer = browser.get(f"{data[0]['picture']}?download")
    assert "attachment" in answer.headers["content-disposition"]
    (tmp_path / "picture.png").write_bytes(answer.content)
    assert json.loads(Image.open(tmp_path / "picture.png").info["ldm_train"])["seed"] == 9


def test_a_drawing_ends_when_its_client_left(browser: httpx.Client, playground: Playground) -> None:
    event = browser.post("/gradio_api/call/draw", json={"data": [PROMPT, {"steps": 1000}, ""]}).json()["event_id"]
    with browser.stream("GET", f"/gradio_api/call/draw/{event}"):
        while playground.is_idle(0):
            time.sleep(0.01)
    assert playground.is_idle(60)
    assert playground.sessions.open(event).entries == []
    assert call(browser, PROMPT, {"seed": 1})[0] == "complete"


def test_a_drawing_ends_when_nobody_asks_for_it(
    browser: httpx.Client, playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm_train.commands.playground.client_watch.UNAWAITED", 0.2)
    event = browser.post("/gradio_api/call/draw", json={"data": [PROMPT, {"steps": 1000}, ""]}).json()["event_id"]
    while playground.is_idle(0):
        time.sleep(0.01)
    assert playground.is_idle(60)
    assert playground.sessions.open(event).entries == []
    playground.sessions.close(event)
    assert call(browser, PROMPT, {"steps": 20})[0] == "complete"  # one that is awaited goes on


def test_nothing_is_kept_of_what_was_answered(browser: httpx.Client, playground: Playground) -> None:
    def count_kept() -> int:
        return sum(type(one).__name__ in ("SessionState", "BrowserSession") for one in gc.get_objects())

    call(browser, PROMPT, {"seed": 1})
    before = count_kept()
    for seed in range(5):
        assert call(browser, PROMPT, {"seed": seed})[0] == "complete"
    for _ in range(100):
        gc.collect()
        if count_kept() <= before:
            break
        time.sleep(0.05)
    assert count_kept() <= before
    assert not playground.awaited


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/queue/data?session_hash=unknown", "/gradio_api/call/draw/unknown", "/gradio_api/heartbeat/a%00b"],
)
def test_an_unknown_event_is_no_traceback(path: str, browser: httpx.Client, capfd: pytest.CaptureFixture[str]) -> None:
    answer = browser.get(path)
    assert answer.status_code == 404 or "error" in answer.text
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("data", [[], [1], ["a", {}, "", "b"]])
def test_wrong_values_are_no_traceback(data: list[object], browser: httpx.Client, capfd: pytest.CaptureFixture[str]) -> None:
    started = browser.post("/gradio_api/call/draw", json={"data": data})
    if started.status_code == 200:
        browser.get(f"/gradio_api/call/draw/{started.json()['event_id']}")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("path", ["/uploads", "/gradio_api/call/draw"])
def test_a_body_without_a_length_is_limited(path: str, browser: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_guard, "LARGEST_BODY", 1000)
    answer = browser.post(path, content=iter([b" " * 600] * 3), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "1,000" in answer.text
