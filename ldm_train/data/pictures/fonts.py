"""Find fonts on this machine that have the letters of labels, whatever their script."""

import os
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONT_SIZE = 14  # pixels
MOST_FILES = 2000  # of fonts that are looked at, and only for letters that none before has
SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
WIDE_FONTS = ("DejaVuSans.", "NotoSans-", "NotoSansCJK", "ArialUni", "Arial Unicode", "unifont", "Noto", "Symbola")
STYLES = ("Bold", "Italic", "Oblique", "Mono", "Light", "Thin", "Black", "Condensed", "Serif")
FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
ABSENT = "\U0010fffe"  # no font has it, so it looks as every letter does that a font lacks


@cache
def load_font() -> Font:
    """Return Pillow's own font, which has Latin letters."""
    return ImageFont.load_default(FONT_SIZE)


def split_by_font(text: str) -> list[tuple[str, Font]]:
    """Return a text as runs of letters, each with a font that has them; Pillow's own for letters that none has."""
    return [("".join(letters), font) for font, letters in groupby(text, choose_font)]


@cache
def choose_font(letter: str) -> Font:
    """Return the first font that has a letter, or Pillow's own if none has."""
    return next((font for font in _iterate_fonts() if has_letter(font, letter)), load_font())


def list_absent(texts: Iterable[str]) -> list[str]:
    """Return the letters of texts that no font on this machine has, in order."""
    return sorted({letter for text in texts for letter in text if not has_letter(choose_font(letter), letter)})


@cache
def has_letter(font: Font, letter: str) -> bool:
    """Return whether a font has a letter, and does not draw a box for it; blanks and marks without a form count."""
    if not letter.isprintable() or letter.isspace():
        return True
    try:
        return bytes(font.getmask(letter)) != bytes(font.getmask(ABSENT))
    except (OSError, UnicodeError):  # Pillow's font without FreeType has Latin-1 only
        return False


def _iterate_fonts() -> Iterator[Font]:
    yield load_font()
    for path in list_font_files():
        if (font := _open_font(path)) is not None:
            yield font


@cache
def _open_font(path: Path) -> Font | None:
    try:
        return ImageFont.truetype(str(path), FONT_SIZE)
    except (OSError, ImportError, ValueError):  # damaged, or a font of pictures of fixed sizes
        return None


@cache
def list_font_files() -> tuple[Path, ...]:
    """Return the fonts of matplotlib, if it is installed, and of the system; those that have many letters come first."""
    found: list[Path] = []
    for folder in (*_matplotlib_fonts(), *(Path(name).expanduser() for name in FOLDERS)):
        for place, _, names in os.walk(folder):
            found += [Path(place, name) for name in names if name.lower().endswith(SUFFIXES)]
    return tuple(sorted(found, key=_rank)[:MOST_FILES])


def _matplotlib_fonts() -> list[Path]:
    spec = find_spec("matplotlib")
    origin = None if spec is None else spec.origin
    return [] if origin is None else [Path(origin).with_name("mpl-data") / "fonts" / "ttf"]


def _rank(path: Path) -> tuple[int, int, str]:
    wide = next((place for place, name in enumerate(WIDE_FONTS) if path.name.startswith(name)), len(WIDE_FONTS))
    return sum(style in path.name for style in STYLES), wide, str(path)
