"""The page of a report: well-formed, self-contained, and unharmed by what strangers' files hold."""

import errno
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ldm_train.reports.charts import Bars, Histogram
from ldm_train.reports.embedded_pictures import embed_picture
from ldm_train.reports.page import Page, PageSection, Verdict, render_page, write_page
from ldm_train.reports.page_blocks import (
    DataTable,
    Facts,
    Film,
    FilmFrame,
    PageBlock,
    Paragraphs,
    ShellCommand,
    Thumbnail,
    Thumbnails,
    WholePicture,
)

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "caf\udce9.png",
    "\ud800\udfff",
    "\x00\x1b[31m\x85",
    "a\r\nb",
    "\u202egnp.exe",
    "شجرة 👩‍👩‍👧",
    "{{ 7 * 7 }}{% raw %}",
    "</style></title><!--",
]


class Read(HTMLParser):
    """A page's elements and text; that tags are balanced and ids are different is asserted on the way."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len({name for name, _ in attrs})
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "".join(self.words)


def with_blocks(*blocks: PageBlock) -> Page:
    return Page("A report", sections=[PageSection("A section", blocks)])


def everything(text: str) -> Page:
    """A page with this text wherever a page takes text."""
    blocks: list[PageBlock] = [
        Facts([(text, text)]),
        DataTable([text, "number"], [[text, "1"]] * 3, numeric=["number"], max_rows=1, max_folded=1, caption=text),
        Bars([(text, 2.0, text)] * 3, unit=text, max_rows=1),
        Histogram.of([1, 2, 2, float("nan")], unit=text, caption=text),
        Thumbnails([Thumbnail(Image.new("RGB", (8, 8)), text, text), Thumbnail(None, text, text)]),
        Paragraphs([text]),
        ShellCommand(text),
    ]
    verdict = Verdict(ok=False, text=text, reasons=[text] * 14)
    return Page(text, verdict, [(text, text)], [PageSection(text, blocks, note=text)] * 4)


def test_it_is_well_formed_and_names_its_parts() -> None:
    html = render_page(everything("tree"))
    page = Read(html)
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    assert {header["scope"] for header in page.all("th")} == {"col", "row"}
    assert all("alt" in image for image in page.all("img"))
    assert all("aria-label" in drawing for drawing in page.all("svg"))
    assert [heading["id"] for heading in page.all("h2")] == ["tree", "tree-2", "tree-3", "tree-4"]


def test_it_needs_nothing_from_outside() -> None:
    html = render_page(everything("tree"))
    page = Read(html)
    assert "http" not in html.replace("http-equiv", "")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in [
        meta.get("content") for meta in page.all("meta")
    ]
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert {tag for tag, attributes in page.elements if "src" in attributes} == {"img"}
    assert all(str(attributes.get("href", "#")).startswith("#") for _, attributes in page.elements)
    assert "url(" not in html
    assert "@import" not in html


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(text: str) -> None:
    page, plain = Read(render_page(everything(text))), Read(render_page(everything("tree")))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [set(attributes) for _, attributes in page.elements] == [set(attributes) for _, attributes in plain.elements]


def make_film(text: str) -> Page:
    picture = embed_picture(Image.new("RGB", (4, 4), "red"), lossless=True)
    frames = [FilmFrame(text, [WholePicture(picture, "", text), WholePicture(None, text, text)], [(text, text)])] * 3
    return with_blocks(Film(frames, text, first=1))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_film_holds_hostile_text_as_text(text: str) -> None:
    page, plain = Read(render_page(make_film(text))), Read(render_page(make_film("tree")))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]


def test_a_film_has_the_script_and_all_its_frames_without_it() -> None:
    html = render_page(make_film("tree"))
    page = Read(html)
    assert len(page.all("script")) == 1
    assert html.count("cannot be decoded") == len(page.all("img")) == 3
    assert not any("hidden" in attributes for _, attributes in page.elements)
    assert [figure.get("data-first") for figure in page.all("figure")] == ["1"]
    assert render_page(with_blocks(Film([]))) == render_page(Page("A report"))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.text(st.characters(codec=None)))
def test_any_text_can_be_written(text: str) -> None:
    assert Read(render_page(everything(text)).encode().decode()).all("h1")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\udce9.png", "caf\\xe9.png"),
        ("a\ud800b", "a\\ud800b"),
        ("a\x00\x7f\x85b", "a\\x00\\x7f\\x85b"),
        ("a\r\nb", "a ↵ b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\U0001ffff", "\\U0001ffff"),
        ("👩‍👩‍👧 & <שלום>", "👩‍👩‍👧 & <שלום>"),
        ("x" * 100_000, "x" * 300 + "… (100,000 characters)"),
    ],
)
def test_what_cannot_be_shown_is_spelled_out(text: str, shown: str) -> None:
    assert f"|{shown}|" in "|".join(["", *Read(render_page(with_blocks(Facts([("key", text)])))).words, ""])


def test_paragraphs_and_commands_keep_their_lines() -> None:
    words = Read(render_page(with_blocks(Paragraphs(["one\ntwo", ""]), ShellCommand("a \\\n  b")))).words
    assert {"one\ntwo", "a \\\n  b"} <= set(words)


@pytest.mark.parametrize(("ok", "word"), [(True, "verdict good"), (False, "verdict bad")])
def test_the_verdict_stands_first(ok: bool, word: str) -> None:
    page = Read(render_page(Page("A report", Verdict(ok=ok, text="So it is.", reasons=["first", "second"]), [("a", "b")])))
    assert word in [attributes.get("class") for attributes in page.all("div")]
    assert page.text.index("So it is.") < page.text.index("first") < page.text.index("second")


def test_empty_sections_are_left_out() -> None:
    empty: list[PageBlock] = [
        Facts([]),
        DataTable(["a"], []),
        Bars([]),
        Histogram.of([]),
        Histogram([0], [0, 1]),
        Thumbnails([]),
        Paragraphs([""]),
        ShellCommand(""),
    ]
    page = Page(
        "A report",
        sections=[PageSection("Gone", empty, note="gone too"), PageSection("Here", [*empty, Paragraphs(["it is"])])],
    )
    read = Read(render_page(page))
    assert [heading["id"] for heading in read.all("h2")] == ["here"]
    assert "gone" not in read.text.lower()


@pytest.mark.parametrize(("sections", "contents"), [(3, 0), (4, 1)])
def test_contents_are_listed_from_four_sections_on(sections: int, contents: int) -> None:
    page = Read(
        render_page(Page("A report", sections=[PageSection(f"Part {i}", [Paragraphs(["x"])]) for i in range(sections)]))
    )
    assert len(page.all("nav")) == contents
    linked = {str(link["href"])[1:] for link in page.all("a")}
    assert linked == {heading["id"] for heading in page.all("h2")}


def test_ids_differ_whatever_the_titles() -> None:
    titles = ["A", "a", "A 2", "שלום", "", "a-2", "Section"]
    read = Read(render_page(Page("A report", sections=[PageSection(title, [Paragraphs(["x"])]) for title in titles])))
    assert all(heading["id"] for heading in read.all("h2"))


def test_a_long_table_is_folded() -> None:
    table = DataTable(
        ["name", "size"], [[f"row {i}", f"{i:,}"] for i in range(1500)], numeric=["size"], max_rows=5, max_folded=100
    )
    html = render_page(with_blocks(table))
    before, _, after = html.partition("<details>")
    assert before.count("<tbody>") == after.count("<tbody>") == 1
    assert before.count('scope="row"') == 5
    assert after.count('scope="row"') == 100
    assert "1,495 more rows" in after
    assert "1,395 further rows are not part of this page" in after
    assert before.count('class="number"') == 6


def test_many_reasons_are_folded() -> None:
    html = render_page(Page("A report", Verdict(ok=False, text="No.", reasons=[f"reason {i}" for i in range(2000)])))
    before, _, after = html.partition("<details>")
    assert (before.count("<li>"), after.count("<li>")) == (12, 1000)
    assert "1,988 more reasons" in after
    assert "988 further reasons are not part of this page" in after


def test_a_table_that_fits_is_not_folded() -> None:
    assert "<details>" not in render_page(with_blocks(DataTable(["name"], [["a"]] * 20)))


def test_the_same_page_has_the_same_bytes(tmp_path: Path) -> None:
    write_page(everything("tree"), tmp_path / "a.html")
    write_page(everything("tree"), tmp_path / "deep/b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "deep/b.html").read_bytes()
    assert str(tmp_path) not in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    write_page(with_blocks(Paragraphs(["old"])), target)
    old = target.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(with_blocks(Paragraphs(["new"])), target)
    assert target.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.slow
def test_torch_is_not_needed() -> None:
    code = "import sys, ldm_train.reports.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
