"""What a person does with the playground, in a real browser; `bash scripts/test_browser.sh` runs this."""

import json
import os
import re
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from ldm_train.commands.playground.listening import Address
from ldm_train.commands.playground.playground import Playground
from ldm_train.commands.playground.web_app import build_app
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import PlaygroundSettings
from tests.browser.chromium import Chromium

WIDE, PHONE = 1280, 390
PROMPT = os.environ.get("PLAYGROUND_PROMPT", "a black circle on a red background")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # event loops of gradio
LONG = 60  # seconds that anything may take
SHOWN = "document.querySelector('#result figcaption')?.textContent || ''"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as running:
        yield running


@pytest.fixture(scope="module")
def pictures_to() -> Path:
    """Where the screenshots go."""
    folder = Path(os.environ.get("SCREENSHOTS", "reports/browser"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def run_dir(request: pytest.FixtureRequest) -> str:
    """A tiny run, or the one that PLAYGROUND_RUN names, for screenshots with PLAYGROUND_PROMPT."""
    return os.environ.get("PLAYGROUND_RUN") or str(request.getfixturevalue("trained"))


@pytest.fixture(scope="module")
def address(run_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a page that is served by a thread of this process."""
    words = [] if os.environ.get("PLAYGROUND_RUN") else ["steps=4"]
    playground = Playground(
        compose_as(PlaygroundSettings, [f"run_dir={run_dir}", "device=cpu", *words]), tmp_path_factory.mktemp("playground")
    )
    listener = socket.create_server(("127.0.0.1", 0))
    page = Address("127.0.0.1", listener.getsockname()[1], None)
    server = uvicorn.Server(uvicorn.Config(build_app(playground, page), log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield page.url
    server.should_exit = server.force_exit = True
    thread.join(LONG)
    playground.close()


def wait(browser: Chromium, expression: str, *, until: Callable[[object], bool] = bool) -> object:
    """The value of an expression as soon as it is what is waited for."""
    for _ in range(LONG * 10):
        found = browser.value(expression)
        if until(found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{expression} is {found!r} after {LONG} s; {browser.value('document.body.innerText')[-600:]}")


def visit(browser: Chromium, address: str, *, width: int = WIDE) -> None:
    browser.visit(address, width=width, touch=width == PHONE)
    wait(
        browser, "Boolean(document.querySelector('#draw') && document.querySelector('#history .empty') && window.playground)"
    )
    time.sleep(1)  # until its buttons do something, which nothing on the page says


def write(browser: Chromium, box: str, text: str) -> None:
    """Type a text into a box."""
    browser.value(f"(() => {{ const e = document.querySelector({json.dumps(box)}); e.focus(); e.select(); return 1; }})()")
    browser.ask("Input.insertText", text=text)


def click(browser: Chromium, place: str) -> None:
    """Press the mouse in the middle of an element, which is scrolled into sight."""
    x, y = browser.value(
        f"(() => {{ const e = document.querySelector({json.dumps(place)}); e.scrollIntoView({{block: 'center'}}); "
        "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    browser.mouse("mousePressed", (x, y))
    browser.mouse("mouseReleased", (x, y))


def open_section(browser: Chromium, section: str) -> None:
    if not browser.value(f"Boolean(document.querySelector('#{section} button').classList.contains('open'))"):
        click(browser, f"#{section} button")
    time.sleep(0.3)


def draw(browser: Chromium, prompt: str = PROMPT, *, button: str = "#draw") -> None:
    """Type a prompt, press a button, and wait for a new picture."""
    before = browser.value("document.querySelectorAll('#history [data-entry]').length")
    write(browser, "#prompt textarea", prompt)
    click(browser, button)
    wait(
        browser,
        "document.querySelectorAll('#history [data-entry]').length",
        until=lambda count: isinstance(count, int) and count > before,
    )
    wait(browser, "[...document.querySelectorAll('#result img')].every((e) => e.complete && e.naturalWidth > 0)")


def choose_file(browser: Chromium, slot: str, path: Path) -> None:
    wait(browser, f"Boolean(document.querySelector(\".upload[data-slot='{slot}'] input[type=file]\"))")
    document = browser.ask("DOM.getDocument")["root"]["nodeId"]
    found = browser.ask("DOM.querySelector", nodeId=document, selector=f".upload[data-slot='{slot}'] input[type=file]")
    browser.ask("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(path)])


def read_command(browser: Chromium) -> str:
    found = browser.value("document.querySelector('#result .command').textContent")
    assert isinstance(found, str)
    return found


def fetch_picture(browser: Chromium) -> bytes:
    """The bytes of the file that the page offers for download."""
    found = browser.value(
        "fetch(document.querySelector('#result a[download]').href).then((a) => a.arrayBuffer())"
        ".then((b) => [...new Uint8Array(b)])"
    )
    return bytes(found)


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_prompt_is_drawn_without_an_error_or_a_request_elsewhere(
    width: int, scheme: str, browser: Chromium, address: str, pictures_to: Path
) -> None:
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    visit(browser, address, width=width)
    draw(browser)
    assert re.search(r"picture 1, step [\d,]+, [\d.]+ s", browser.value(SHOWN))
    assert browser.value("document.documentElement.scrollWidth") <= width, "nothing reaches beyond the window"
    browser.picture(pictures_to / f"playground-{width}-{scheme}.png", whole=True)
    assert browser.troubles() == []
    assert [one for one in browser.requests() if not one.startswith((address, "blob:"))] == []
    browser.ask("Emulation.setEmulatedMedia", features=[])


def test_the_downloads_command_draws_the_same_bytes(
    browser: Chromium, address: str, ldm_train: Callable, tmp_path: Path
) -> None:
    visit(browser, address)
    draw(browser, "a black circle, 'quoted' on \"red\" {{x}}")
    content, (_, verb, *words) = fetch_picture(browser), shlex.split(read_command(browser))
    answer = ldm_train(verb, *[word for word in words if not word.startswith("out=")], f"out={tmp_path}/drawn")
    assert answer.code == 0, answer.err
    assert (tmp_path / "drawn" / "0000.png").read_bytes() == content
    assert browser.troubles() == []


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_a_mask_is_painted_on_a_picture_and_restored_from_the_history(
    width: int, browser: Chromium, address: str, pictures: Path, pictures_to: Path
) -> None:
    visit(browser, address, width=width)
    open_section(browser, "start")
    choose_file(browser, "picture", pictures / "circle-red.png")
    wait(browser, "!document.querySelector('.upload .chosen').hidden")
    x, y, side = browser.value(
        "(() => { const e = document.querySelector('.upload canvas'); e.scrollIntoView({block: 'center'}); "
        "const b = e.getBoundingClientRect(); return [b.x, b.y, b.width]; })()"
    )
    places = ((x + 0.1 * side, y + 0.3 * side), (x + 0.6 * side, y + 0.3 * side))
    if width == PHONE:
        browser.touch("touchStart", places[0])
        browser.touch("touchMove", places[1])
        browser.touch("touchEnd")
    else:
        browser.drag(*places)
    painted = (
        "(() => { const c = document.querySelector('.upload canvas'); return [...c.getContext('2d').getImageData(0, 0, "
        "c.width, c.height).data].filter((v, i) => i % 4 === 3 && v > 128).length / c.width / c.height; })()"
    )
    share = browser.value(painted)
    assert 0.02 < share < 0.9
    draw(browser)
    browser.picture(pictures_to / f"playground-mask-{width}.png", whole=True)
    assert " mask=" in read_command(browser)
    assert " picture=" in read_command(browser)
    browser.value("document.querySelector('.upload .remove').click()")
    draw(browser)
    assert " mask=" not in read_command(browser)
    click(browser, "#history [data-entry='1']")
    wait(browser, SHOWN, until=lambda text: str(text).startswith("picture 1,"))
    wait(browser, "!document.querySelector('.upload .chosen').hidden")
    wait(browser, painted, until=lambda found: abs(float(str(found)) - share) < 0.02)
    draw(browser)
    assert " mask=" in read_command(browser)
    assert browser.troubles() == []


def test_a_drawing_is_cancelled(browser: Chromium, address: str) -> None:
    visit(browser, address)
    open_section(browser, "settings")
    write(browser, "#steps :is(input, textarea)", "900")
    write(browser, "#prompt textarea", PROMPT)
    click(browser, "#draw")
    wait(browser, SHOWN, until=lambda text: "of 900" in str(text))
    click(browser, "#cancel")
    wait(browser, "document.querySelector('#result').innerText", until=lambda text: "cancelled" in str(text))
    write(browser, "#steps :is(input, textarea)", "2")
    draw(browser)
    assert browser.value("document.querySelectorAll('#history [data-entry]').length") == 1
    assert browser.troubles() == []


def test_settings_are_compared_and_restored(browser: Chromium, address: str, pictures_to: Path) -> None:
    visit(browser, address)
    open_section(browser, "settings")
    write(browser, "#seed :is(input, textarea)", "7")
    open_section(browser, "comparing")
    write(browser, "#other-steps :is(input, textarea)", "1")
    draw(browser, button="#compare")
    captions = browser.value("[...document.querySelectorAll('#result figcaption')].map((e) => e.textContent)")
    assert [text.split(",")[0] for text in captions] == ["this: picture 1", "the other: picture 2"]
    browser.picture(pictures_to / "playground-compared.png", whole=True)
    write(browser, "#seed :is(input, textarea)", "8")
    draw(browser, "another prompt")
    click(browser, "#history [data-entry='1']")
    wait(browser, SHOWN, until=lambda text: str(text).startswith("picture 1,"))
    wait(browser, "document.querySelector('#seed :is(input, textarea)').value", until=lambda text: text == "7")
    assert browser.value("document.querySelector('#prompt textarea').value") == PROMPT
    assert browser.troubles() == []


def test_hostile_text_runs_nothing(browser: Chromium, address: str) -> None:
    visit(browser, address)
    prompt = "<img src=x onerror=alert(1)>$(alert(2)){{value}}"
    draw(browser, prompt)
    assert browser.value("document.querySelectorAll('[onerror]').length") == 0
    assert not any(event["method"] == "Page.javascriptDialogOpening" for event in browser.events)
    assert browser.value("document.querySelector('#result img').alt") == prompt


def test_an_upload_that_is_no_picture_is_refused_in_words(browser: Chromium, address: str, tmp_path: Path) -> None:
    visit(browser, address)
    open_section(browser, "start")
    (tmp_path / "page.png").write_text("<!doctype html><script>alert(1)</script>")
    choose_file(browser, "picture", tmp_path / "page.png")
    text = wait(browser, "document.querySelector('.upload .problem').textContent")
    assert "picture" in str(text)
