"""Render reports as self-contained HTML pages: `render_page(Page(...))`. The same inputs give the same bytes."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from ldm_train.reports.embedded_pictures import embed_thumbnail
from ldm_train.reports.page_blocks import PageBlock, Strings
from ldm_train.reports.safe_text import fit_line, fit_prose
from ldm_train.util.files import atomic_write

GENERATOR = b'<meta name="generator" content="ldm-train">'


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The banner at the top: whether all is well (None: undecided), a sentence that says so, and the reasons."""

    ok: bool | None
    text: str
    reasons: Strings = ()


@dataclass(frozen=True)
class PageSection:
    """A heading with a note and blocks. A section without a filled block is left out."""

    title: str
    blocks: Sequence[PageBlock]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A report: the verdict first, then the summary's names and values, then the sections."""

    title: str
    verdict: Verdict | None = None
    summary: Sequence[tuple[str, str]] = ()
    sections: Sequence[PageSection] = ()


def render_page(page: Page) -> str:
    """Return the page as HTML that needs no other file, and can be encoded in UTF-8 whatever its texts contain."""
    filled = [
        PageSection(section.title, [block for block in section.blocks if not block.empty], section.note)
        for section in page.sections
        if any(not block.empty for block in section.blocks)
    ]
    sections = list(zip(_anchors([section.title for section in filled]), filled, strict=True))
    kinds = {block.kind for section in filled for block in section.blocks}
    script = _script() if kinds & {"charts", "film"} else None
    return _template().render(page=page, sections=sections, script=script, script_hash=_hash(script)).lstrip()


def write_page(page: Page, path: Path) -> None:
    """Write the page atomically."""
    atomic_write(path, render_page(page))


def is_page(path: Path) -> bool:
    """Return whether a file is a page that `write_page` wrote."""
    with path.open("rb") as file:
        return GENERATOR in file.read(4096)


@cache
def _script() -> Markup:
    """Return the script of plots and sliders, which only pages with one of them contain."""
    return Markup(files("ldm_train.reports").joinpath("page.js").read_text(encoding="utf-8"))


def _hash(script: str | None) -> Markup:
    """Return the hash by which the page's content security policy allows its one script."""
    digest = hashlib.sha256((script or "").encode()).digest()
    return Markup("sha256-" + base64.b64encode(digest).decode())


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, finalize=fit_line, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"line": fit_line, "prose": fit_prose, "embed_thumbnail": embed_thumbnail, "trusted": Markup}
    return environment.from_string(files("ldm_train.reports").joinpath("page.html").read_text(encoding="utf-8"))


def _anchors(titles: list[str]) -> list[str]:
    """Return a distinct id for each title, made of its letters."""
    found: list[str] = []
    for title in titles:
        name = re.sub(r"[^a-z0-9]+", "-", title[:80].lower()).strip("-") or "section"
        number = 1 + sum(other == name or re.fullmatch(rf"{name}-\d+", other) is not None for other in found)
        found.append(name if number == 1 else f"{name}-{number}")
    return found
