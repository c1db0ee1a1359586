"""Labels are drawn in any script that a font of this machine has; what none has is said once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageFont

from ldm_train.data.pictures import fonts
from ldm_train.data.pictures.fonts import choose_font, has_letter, list_absent, load_font, split_by_font
from ldm_train.data.pictures.labelled_grid import draw_captioned_grid, draw_labelled_grid

CACHED = (fonts.choose_font, fonts.list_font_files, fonts._open_font)
WIDE = next((path for path in fonts.list_font_files() if path.name == "DejaVuSans.ttf"), None)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """`only(path, …)`: these are all fonts of the machine, next to Pillow's own."""

    def set_fonts(*paths: Path) -> None:
        monkeypatch.setattr(fonts, "list_font_files", lambda: paths)
        for one in CACHED:
            one.cache_clear()

    yield set_fonts
    monkeypatch.undo()
    for one in CACHED:
        one.cache_clear()


def test_a_letter_that_a_font_lacks_is_known() -> None:
    assert has_letter(load_font(), "a")
    assert has_letter(load_font(), " ")
    assert not has_letter(load_font(), "猫")


@pytest.mark.skipif(WIDE is None, reason="this machine has no DejaVu Sans")
def test_letters_are_taken_from_the_font_that_has_them(only, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert WIDE is not None
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    only(tmp_path / "damaged.ttf", WIDE)
    runs = split_by_font("a Ωж b")
    assert [text for text, _ in runs] == ["a ", "Ωж", " b"]
    assert isinstance(runs[1][1], ImageFont.FreeTypeFont)
    assert list_absent(["Ω — é ü ж"]) == []
    black = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    inks = {np.asarray(draw_captioned_grid(black, [text], columns=1)).tobytes() for text in ("Ω", "ж", "")}
    assert len(inks) == 3, "each letter has a form of its own"


def test_what_no_font_has_is_said_once_for_all_labels(only, capsys: pytest.CaptureFixture) -> None:  # type: ignore[no-untyped-def]
    only()
    cell = torch.zeros(3, 16, 16, dtype=torch.uint8)
    draw_labelled_grid([[cell, cell]], ["a 猫", "猫 \U00010400"], ["b"])
    printed = capsys.readouterr().out
    assert printed.count("猫") == printed.count("\U00010400") == printed.count("note") == 1
    draw_captioned_grid(torch.stack([cell]), ["only Latin"], columns=1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["matplotlib", None])
def test_fonts_are_looked_for_where_systems_keep_them(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("z/NotoSans-Regular.ttf", "a/Other-Bold.otf", "a/Other.ttf", "a/readme.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    monkeypatch.setattr(fonts, "FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(fonts, "_matplotlib_fonts", lambda: [] if name is None else [tmp_path / "nowhere"])
    fonts.list_font_files.cache_clear()
    try:
        found = [path.name for path in fonts.list_font_files()]
    finally:
        monkeypatch.undo()
        fonts.list_font_files.cache_clear()
    assert found == ["NotoSans-Regular.ttf", "Other.ttf", "Other-Bold.otf"]


def test_pillows_own_font_draws_what_it_has() -> None:
    assert choose_font("é") is load_font() or has_letter(choose_font("é"), "é")
