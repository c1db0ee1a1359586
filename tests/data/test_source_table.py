"""A table that names pictures: every format alike, paths of all kinds, keys without absolute paths."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.data.sources.items import Item, PictureFile
from ldm_train.data.sources.table import Table

FORMATS = ["jsonl", "csv", "tsv", "parquet"]
Rows = list[dict[str, object]]


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path)
    return path


def table(path: Path, rows: Rows) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_a_row_is_an_item_in_the_tables_order(kind: str, tmp_path: Path) -> None:
    for name in ("b.png", "deep/a.png"):
        picture(tmp_path / name)
    rows: Rows = [
        {"file_name": "deep/a.png", "text": 'one, "two"', "split": "train", "size": 3},
        {"file_name": "b.png", "text": "three", "split": "val", "size": 4},
    ]
    first, second = Table(str(table(tmp_path / f"t.{kind}", rows)))
    word = {"parquet": "row"}.get(kind, "line")
    header = 1 if kind in ("csv", "tsv") else 0
    path = PictureFile(tmp_path / "deep/a.png")
    assert first == Item("deep/a.png", path, ('one, "two"',), f"t.{kind} {word} {1 + header}", fields={"size": "3"})
    assert (second.key, second.held_out, second.origin) == ("b.png", True, f"t.{kind} {word} {2 + header}")


def test_columns_key_and_root_are_settings(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/a.png")
    picture(tmp_path / "b.png")
    rows: Rows = [{"path": name, "id": i, "title": ["x", "y"]} for i, name in enumerate(["a.png", "../b.png"])]
    path = table(tmp_path / "t.jsonl", rows)
    items = list(
        Table(str(path), path_column="path", caption_column="title", key_column="id", root=str(tmp_path / "pictures"))
    )
    assert [(item.key, item.captions, item.fields) for item in items] == [("0", ("x", "y"), {}), ("1", ("x", "y"), {})]


@pytest.mark.parametrize("root", [None, "pictures", "."])
def test_keys_are_relative_whatever_the_paths_are(root: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = picture(tmp_path / "pictures/a.png")
    table(tmp_path / "t.jsonl", [{"file_name": str(path), "text": "x"}])
    (item,) = Table("t.jsonl", root=root)
    assert item.key == ("a.png" if root == "pictures" else "pictures/a.png")
    assert item.picture is not None
    assert item.picture.read() == path.read_bytes()


FAULTS: dict[str, tuple[dict[str, object], dict[str, str], str]] = {
    "gone": (
        {"file_name": "gone.png", "text": "x"},
        {},
        "t.jsonl line 2 names gone.png, which is not a file; it is looked for in",
    ),
    "folder": ({"file_name": "sub", "text": "x"}, {}, "which is not a file"),
    "URL": ({"file_name": "https://x.org/a.png", "text": "x"}, {}, "which is not a file; download it first"),
    "NUL": ({"file_name": "a\0.png", "text": "x"}, {}, "names a\\x00.png, which is not a file"),
    "half a character": ({"file_name": "\ud800.png", "text": "x"}, {}, "names \\ud800.png, which is not a file"),
    "no name": ({"text": "x"}, {}, "t.jsonl line 2 names no picture: file_name is None"),
    "empty name": ({"file_name": "", "text": "x"}, {}, "names no picture: file_name is ''"),
    "number": ({"file_name": 3, "text": "x"}, {}, "names no picture: file_name is 3"),
    "no caption": ({"file_name": "b.png"}, {}, "no caption: t.jsonl line 2 has no 'text'; it has file_name"),
    "empty caption": ({"file_name": "b.png", "text": " "}, {}, "no caption: t.jsonl line 2 has no text in 'text'"),
    "another split": (
        {"file_name": "./good.png", "text": "y", "split": "test"},
        {},
        "an earlier picture has the same name good.png",
    ),
    "no key": ({"file_name": "b.png", "text": "x"}, {"key_column": "id"}, "has no usable name: id is empty"),
    "absolute key": ({"file_name": "b.png", "text": "x", "id": "/b"}, {"key_column": "id"}, "or an absolute path"),
    "same key": ({"file_name": "b.png", "text": "x", "id": "g"}, {"key_column": "id"}, "the same name g"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_reported_and_spare_the_others(fault: str, tmp_path: Path) -> None:
    row, settings, words = FAULTS[fault]
    for name in ("good.png", "b.png", "sub/c.png"):
        picture(tmp_path / name)
    path = table(tmp_path / "t.jsonl", [{"file_name": "good.png", "text": "x", "id": "g"}, row])
    good, bad = Table(str(path), **settings)  # type: ignore[arg-type]
    assert good.problem is None
    assert words in str(bad.problem)
    assert (bad.captions, bad.origin) == ((), "t.jsonl line 2")
    assert not os.path.isabs(bad.key)


def test_rows_of_one_picture_are_its_captions(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    rows = [("a.png", "one"), ("b.png", "x"), ("./a.png", "two"), ("a.png", ["one", "three"]), ("a.png", " ")]
    path = table(tmp_path / "t.jsonl", [{"file_name": name, "text": text} for name, text in rows])
    items = [(item.key, item.captions) for item in Table(str(path))]
    assert items == [("a.png", ("one", "two", "three")), ("b.png", ("x",)), ("a.png#2", ())]


def test_pictures_only_are_read_if_no_captions_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_train.data.sources.rows.MAX_NAMED", 1)
    names = [picture(tmp_path / f"{number}.png").name for number in range(3)]
    source = Table(str(table(tmp_path / "t.jsonl", [{"file_name": name} for name in names])))
    source.needs_captions = False
    assert [(item.key, item.captions, item.problem) for item in source] == [(name, ("",), None) for name in names]


def test_a_malformed_line_is_a_problem_of_its_own(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{\n{"file_name": "a.png", "text": "x"}\n')
    bad, good = Table(str(tmp_path / "t.jsonl"))
    assert (bad.key, good.captions) == ("t.jsonl:1", ("x",))
    assert "t.jsonl line 1 is not JSON" in str(bad.problem)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("setting", ["path_column", "caption_column", "key_column"])
def test_a_column_that_is_not_there_is_refused_with_the_nearest(setting: str, kind: str, tmp_path: Path) -> None:
    path = table(tmp_path / f"t.{kind}", [{"file_name": "a.png", "text": "x", "named": "y"}])
    words = f"no column 'name' (source.{setting}): it has file_name, text, named; did you mean source.{setting}=named?"
    with pytest.raises(ValueError, match=re.escape(words)):
        list(Table(str(path), **{setting: "name"}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "root", "words"),
    [
        ("gone.csv", None, None, "gone.csv is not a file; set it to a table: .jsonl, .json, .csv, .tsv, .parquet"),
        ("t.xlsx", b"", None, "t.xlsx is not a table that can be read; accepted are .jsonl, .json, .csv, .tsv, .parquet"),
        ("t.csv", b"file_name,text\n", None, "t.csv has no row; is it the right table?"),
        ("t.jsonl", b"\n", None, "t.jsonl has no row"),
        (
            "t.csv",
            b"file_name,text\n",
            "gone",
            "source.root=gone is not a folder; set it to the folder that file_name is relative to",
        ),
    ],
)
def test_what_is_no_table_is_refused(name: str, content: bytes | None, root: str | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)):
        list(Table(str(tmp_path / name), root=root))


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
def test_a_table_that_is_none_at_all_is_a_problem(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    (item,) = Table(str(tmp_path / name))
    assert item.problem is not None
    assert name in item.problem
