"""JSON that somebody else may have written."""

from pathlib import Path

import pytest

from ldm_train.util.ownership import CACHE, EXPORT, read_mark
from ldm_train.util.safe_json import numbers_of, parse_json, parse_values


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "9" * 9_999, "\ufeff1", "1 2"])
def test_neither_reader_takes_what_is_no_json(text: str) -> None:
    for parse in (parse_json, parse_values):
        with pytest.raises(ValueError, match=r"."):
            parse(text)


@pytest.mark.parametrize("text", ["9" * 400, "-" + "9" * 400, "1e999"])
def test_large_numbers_pass_only_where_nobody_computes_with_them(text: str) -> None:
    with pytest.raises(ValueError, match="too large"):
        parse_json(text)
    assert parse_values(f'{{"text": "a", "n": {text}}}')["text"] == "a"  # type: ignore[index,call-overload]


def test_the_numbers_of_a_line() -> None:
    assert numbers_of({"step": 3, "loss": 0.5, "name": "x", "list": [1]}) == {"step": 3, "loss": 0.5}
    assert numbers_of([1]) == {}


@pytest.mark.parametrize("text", ["[]", "{}", "[" * 100_000, '{"files": ' + "9" * 400 + "}", "\x00"])
def test_a_mark_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / EXPORT.mark).write_text(text)
    assert read_mark(tmp_path, EXPORT) is None


def test_a_mark_is_of_its_kind(tmp_path: Path) -> None:
    (tmp_path / EXPORT.mark).write_text('{"files": []}')
    assert read_mark(tmp_path, EXPORT) == {"files": []}
    assert read_mark(tmp_path, CACHE) is None
