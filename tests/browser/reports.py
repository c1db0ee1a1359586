"""What a person does with a report, in a real browser; `bash scripts/test_browser.sh` runs this, apart from other tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ldm_train.reports.axes import format_number
from tests.browser.chromium import Chromium
from tests.run_dir.run_directories import write_run

WIDE, PHONE = 1280, 390
FIRST = "document.querySelector('.curves')"
# Of every text its contrast to what lies behind it (WCAG 2), and what is in it.
CONTRASTS = """
(() => {
  const parse = (colour) => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return { rgb: [r, g, b], a }; };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.a > 0.99) return c.rgb;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && !e.closest('script, svg')
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) && getComputedStyle(e).opacity > 0.5
    && e.closest('h2 a') === null);
  return texts.map((e) => {
    const [a, b] = [light(parse(getComputedStyle(e).color).rgb), light(ground(e))];
    const reported = e.tagName + '.' + e.className + ': ' + e.textContent.trim().slice(0, 40);
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), reported];
  });
})()
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    with Chromium() as running:
        yield running


@pytest.fixture(scope="session")
def pictures_to() -> Path:
    """Where the screenshots go."""
    folder = Path(os.environ.get("SCREENSHOTS", "reports/browser"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def pages(trained: Path, cache: Path, ldm_train: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a tiny real run, of one with everything, and of three side by side; explanations of a run and a cache."""
    folder = tmp_path_factory.mktemp("reports")
    runs = [write_run(folder / f"run-{i}", f"optimizer.lr={(i + 1) * 1e-3}", seed=i) for i in range(3)]
    given = {"real": str(trained), "full": str(runs[0]), "several": f"[{','.join(map(str, runs))}]"}
    for name, run_dir in given.items():
        answer = ldm_train("report", f"run_dir={run_dir}", f"out={folder}/{name}.html", "debug=true")
        assert answer.code == 0, answer.err
    explained = f"{folder}/explained.html"
    answer = ldm_train("explain", f"run_dir={trained}", f"out={explained}", "device=cpu", "debug=true")
    assert answer.code == 0, answer.err
    answer = ldm_train("explain", f"cache={cache}", f"out={folder}/preview.html", "device=cpu", "debug=true")
    assert answer.code == 0, answer.err
    return {name: folder / f"{name}.html" for name in (*given, "explained", "preview")}


@pytest.fixture
def full(browser: Chromium, pages: dict[str, Path]) -> Chromium:
    """The browser with a whole report open on a desktop."""
    browser.open(pages["full"], width=WIDE)
    return browser


def area(browser: Chromium, *, of: str = FIRST) -> tuple[float, float, float, float]:
    """Left, top, width and height of a plot, which is scrolled into sight."""
    x, y, width, height = browser.value(
        f"(() => {{ const e = {of}.querySelector('.area'); e.scrollIntoView({{block: 'center'}}); "
        "const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
    )
    return x, y, width, height


def ticks(browser: Chromium, axis: str, *, of: str = FIRST) -> list[float]:
    texts = browser.value(f"[...{of}.querySelectorAll('.canvas .{axis} span')].map((e) => e.textContent)")
    return [float(text.replace(",", "")) for text in texts]


def path(browser: Chromium, *, of: str = FIRST) -> str:
    found = browser.value(f"[...{of}.querySelectorAll('path.line')].map((e) => e.getAttribute('d')).join('|')")
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("name", ["real", "full", "several", "explained", "preview"])
@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_loads_without_an_error_or_a_request(
    name: str, width: int, scheme: str, browser: Chromium, pages: dict[str, Path], pictures_to: Path
) -> None:
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(pages[name], width=width, touch=width == PHONE)
    browser.picture(pictures_to / f"{name}-{width}-{scheme}.png", whole=True)
    assert browser.troubles() == []
    assert browser.requests() == [pages[name].resolve().as_uri()]
    assert browser.value("document.documentElement.scrollWidth") <= width, "nothing reaches beyond the window"
    assert browser.value("document.querySelectorAll('.tools').length") == browser.value(
        "document.querySelectorAll('.curves').length"
    )
    contrasts = browser.value(CONTRASTS)
    assert len(contrasts) > 100
    assert [reported for contrast, reported in contrasts if contrast < 4.5] == []
    browser.ask("Emulation.setEmulatedMedia", features=[])


def test_a_slider_shows_one_frame_at_a_time(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["explained"], width=WIDE)
    film = "[...document.querySelectorAll('.film')].find((e) => e.querySelectorAll('.frames > li').length > 5)"
    shown = f"[...{film}.querySelectorAll('.frames > li')].map((e) => e.checkVisibility())"
    before = browser.value(shown)
    assert before.count(True) == 1
    last = "r.value = r.max; r.dispatchEvent(new Event('input'))"
    browser.value(f"(() => {{ const r = {film}.querySelector('input'); {last}; return r.value; }})()")
    assert browser.value(shown) == [False] * (len(before) - 1) + [True]
    assert browser.value(f"{film}.querySelector('input').getAttribute('aria-valuetext')").startswith("t = ")
    assert browser.troubles() == []


def test_dragging_zooms_all_plots_of_steps_and_a_double_click_shows_all_again(full: Chromium) -> None:
    x, y, width, height = area(full)
    before, second = ticks(full, "x"), path(full, of="document.querySelectorAll('.curves')[1]")
    full.drag((x + 0.25 * width, y + height / 2), (x + 0.5 * width, y + height / 2))
    after = ticks(full, "x")
    assert min(after) >= 90
    assert max(after) <= 210
    assert len(after) > 2
    assert path(full, of="document.querySelectorAll('.curves')[1]") != second
    assert full.value(f"{FIRST}.querySelector('.whole').hidden") is False
    for clicks in (1, 2):
        full.mouse("mousePressed", (x + 10, y + 10), clicks=clicks)
        full.mouse("mouseReleased", (x + 10, y + 10), clicks=clicks)
    assert ticks(full, "x") == before
    assert full.value(f"{FIRST}.querySelector('.whole').hidden") is True
    assert full.troubles() == []


def test_the_axis_of_log_snr_is_left_alone(full: Chromium) -> None:
    bins = "[...document.querySelectorAll('.curves')].find((e) => e.querySelector('.axis').textContent.trim() === 'log-SNR')"
    before = ticks(full, "x", of=bins)
    x, y, width, height = area(full)
    full.drag((x + 0.25 * width, y + height / 2), (x + 0.5 * width, y + height / 2))
    assert ticks(full, "x", of=bins) == before


def test_the_scale_can_be_chosen(full: Chromium) -> None:
    button = f"{FIRST}.querySelector('.log')"
    was = full.value(f"{button}.getAttribute('aria-pressed')")
    drawn = path(full)
    full.value(f"{button}.click()")
    assert full.value(f"{button}.getAttribute('aria-pressed')") != was
    assert path(full) != drawn
    full.value(f"{button}.click()")
    assert path(full) == drawn


def test_a_name_in_the_legend_hides_its_line_and_shows_it(full: Chromium) -> None:
    key = f"{FIRST}.querySelector('.legend button')"
    count = f"{FIRST}.querySelectorAll('path.line').length"
    before = full.value(count)
    full.value(f"{key}.click()")
    assert full.value(count) == before - 1
    assert full.value(f"{key}.getAttribute('aria-pressed')") == "false"
    full.value(f"{key}.click()")
    assert full.value(count) == before


def test_values_are_read_off_beneath_the_pointer(full: Chromium) -> None:
    x, y, width, height = area(full)
    full.mouse("mouseMoved", (x + 0.5 * width, y + height / 2))
    reported = full.value(f"{FIRST}.querySelector('.axis').textContent")
    assert reported.startswith("step 200 · as logged ")
    assert " · mean " in reported


def test_keys_zoom_and_show_all_again(full: Chromium) -> None:
    before = ticks(full, "x")
    full.value(f"{FIRST}.querySelector('.canvas').focus()")
    for key in ("+", "+", "ArrowRight"):
        full.key(key)
    assert max(ticks(full, "x")) - min(ticks(full, "x")) < max(before) - min(before)
    full.key("0")
    assert ticks(full, "x") == before


def test_two_fingers_zoom(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["full"], width=PHONE, touch=True)
    x, y, width, height = area(browser)
    middle, row = x + width / 2, y + height / 2
    browser.touch("touchStart", (middle - 20, row), (middle + 20, row))
    for reach in (40, 60, 80):
        browser.touch("touchMove", (middle - reach, row), (middle + reach, row))
    browser.touch("touchEnd")
    shown = ticks(browser, "x")
    assert 120 <= min(shown) <= max(shown) <= 280, "a quarter of the width, around the middle"
    assert browser.troubles() == []


def test_one_finger_chooses_a_range(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["full"], width=PHONE, touch=True)
    x, y, width, height = area(browser)
    browser.touch("touchStart", (x + 0.25 * width, y + height / 2))
    for share in (0.3, 0.4, 0.5):
        browser.touch("touchMove", (x + share * width, y + height / 2))
    browser.touch("touchEnd")
    shown = ticks(browser, "x")
    assert 90 <= min(shown) <= max(shown) <= 210


def test_the_script_and_the_page_draw_the_same_axes(browser: Chromium, pages: dict[str, Path]) -> None:
    """Without the script the page has the axes that the script draws."""
    reported = "[...document.querySelectorAll('.curves .y')].map((e) => [...e.children].map((s) => s.textContent))"
    browser.open(pages["full"], width=WIDE)
    moved = browser.value(reported)
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(pages["full"], width=WIDE)
    still = browser.value(reported)
    lines = browser.value("[...document.querySelectorAll('path.line')].filter((e) => e.getAttribute('d')).length")
    tools = browser.value("document.querySelectorAll('.tools').length")
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert still == moved
    assert lines >= 10
    assert tools == 0


@pytest.mark.parametrize("value", [0.5, 12, 1500, 1234.6, 0.0001, 2e-7, -1.5e-9, 2.5e6, 0.3])
def test_numbers_are_written_alike(value: float, full: Chromium) -> None:
    source = full.value("document.querySelector('main script:not([type]), body > script').textContent")
    text = source[source.index("const text =") : source.index("const round =")]
    assert full.value(f"(() => {{ {text} return text({value!r}); }})()") == format_number(value)


def test_it_can_be_printed(full: Chromium, pictures_to: Path) -> None:
    content = full.printed()
    (pictures_to / "full.pdf").write_bytes(content)
    assert content.startswith(b"%PDF")
    full.ask("Emulation.setEmulatedMedia", media="print")
    assert full.value("getComputedStyle(document.querySelector('.tools')).display") == "none"
    assert full.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert full.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    full.ask("Emulation.setEmulatedMedia", media="")


def test_hostile_text_runs_nothing(full: Chromium) -> None:
    assert full.value("[...document.querySelectorAll('img')].every((e) => e.src.startsWith('data:') && e.naturalWidth > 0)")
    assert full.value("document.querySelectorAll('[onerror]').length") == 0
    assert not any(event["method"] == "Page.javascriptDialogOpening" for event in full.events)
