"""A folder of captioned pictures: what it yields, in which order, and what it notes and refuses."""

import json
import os
import re
from pathlib import Path

import pytest

from ldm_train.data.pictures.formats import PICTURE_SUFFIXES
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.items import Item, PictureFile
from tests.data.folders import NOT_UTF8, captioned, describe, items_of, notes_of, parquet, picture


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_metadata_gives_captions_split_and_further_fields(kind: str, tmp_path: Path) -> None:
    path = picture(tmp_path / "deep/er/a.png")
    row = {"file_name": "er/a.png", "text": " an à ", "background": "red", "size": 3, "split": "test"}
    if kind == "jsonl":
        describe(tmp_path / "deep", row)
    elif kind == "csv":
        (tmp_path / "deep/metadata.csv").write_text(
            "file_name,text,background,size,split\ner/a.png, an à ,red,3,test\n", encoding="utf-8"
        )
    else:
        parquet(tmp_path / "deep/metadata.parquet", [row])
    source = Folder(str(tmp_path))
    (item,) = source
    origin = f"deep/metadata.{kind} " + {"jsonl": "line 1", "csv": "line 2", "parquet": "row 1"}[kind]
    fields = {"background": "red", "size": "3"}
    assert item == Item("deep/er/a.png", PictureFile(path), ("an à",), origin, held_out=True, fields=fields)
    assert item.picture is not None
    assert item.picture.read() == path.read_bytes()
    assert source.notes == [f"captions from deep/metadata.{kind}"]


@pytest.mark.parametrize(
    ("split", "held_out", "kept"),
    [
        *[(split, True, {}) for split in ("held_out", "validation", "val", "valid", "dev", "test", " Validation ")],
        *[(split, False, {}) for split in ("train", "", None)],
        ("gold", False, {"split": "gold"}),
    ],
)
def test_split_keeps_from_training(split: str | None, held_out: bool, kept: dict[str, str], tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    describe(tmp_path, {"file_name": "a.png", "text": "x", "split": split})
    item = items_of(tmp_path)["a.png"]
    assert (item.held_out, item.fields) == (held_out, kept)


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("one", ("one",)),
        (["one", " two "], ("one", "two")),
        (["", "two", None, 3], ("two",)),
        *[(nothing, ()) for nothing in ("", "  \n", [], None, 7, {})],
    ],
)
def test_captions_are_texts_that_say_something(text: object, captions: tuple[str, ...], tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    describe(tmp_path, {"file_name": "a.png", "text": text})
    item = items_of(tmp_path)["a.png"]
    assert item.captions == captions
    assert item.problem == (None if captions else "no caption: metadata.jsonl line 1 has no text in 'text'")


def test_lists_in_parquet_are_several_captions(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    parquet(tmp_path / "metadata.parquet", [{"file_name": "a.png", "text": ["one", "two"], "image": b"\xff"}])
    item = items_of(tmp_path)["a.png"]
    assert (item.captions, item.fields) == (("one", "two"), {})


def test_caption_column_is_a_setting(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    describe(tmp_path, {"file_name": "a.png", "text": "x", "title": "y", "tags": ["é"], "none": None})
    item = items_of(tmp_path, caption_column="title")["a.png"]
    assert (item.captions, item.fields) == (("y",), {"text": "x", "tags": '["é"]'})


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("one\n", ("one",)),
        ("one\n\n  two \n", ("one", "two")),
        ("ünï\r\ntwo\rthree", ("ünï", "two", "three")),
        ("\ufeffone", ("one",)),
        ("one\u2028still one\x0b", ("one\u2028still one",)),
        ("", ()),
        (" \n\n", ()),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.caption", "a.TXT", "a.jpg.txt"])
def test_sidecars_hold_a_caption_a_line(name: str, text: str, captions: tuple[str, ...], tmp_path: Path) -> None:
    picture(tmp_path / "deep/a.jpg")
    (tmp_path / "deep" / name).write_text(text, encoding="utf-8", newline="")
    item = items_of(tmp_path)["deep/a.jpg"]
    assert item.captions == captions
    assert item.problem == (None if captions else f"no caption: deep/{name} is empty")


@pytest.mark.parametrize("key", ["text", "caption", "captions", "prompt"])
@pytest.mark.parametrize("several", [True, False])
def test_a_json_sidecar_is_an_object(key: str, several: bool, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps({key: ["one", "two"] if several else "one", "width": 3, "split": "val"}))
    item = items_of(tmp_path)["a.png"]
    assert item.captions == (("one", "two") if several else ("one",))
    assert (item.held_out, item.fields) == (True, {"width": "3"})


def test_sidecars_that_agree_or_say_nothing_go_together(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    (tmp_path / "a.json").write_text('{"width": 3}')
    (tmp_path / "a.caption").write_text("x\n")
    (tmp_path / "b.txt").write_text("whose?")
    source = Folder(str(tmp_path))
    (item,) = source
    assert (item.captions, item.fields) == (("x",), {"width": "3"})
    assert source.notes == [
        "captions from files next to the pictures: 1 .caption, 1 .txt",
        "caption files without a picture: 1 (the first: b.txt)",
    ]


@pytest.mark.parametrize(
    ("template", "key", "caption"),
    [
        ("{top}", "cat/deep/a.png", "cat"),
        ("a {folder}", "cat/deep/a.png", "a deep"),
        ("{folder}", "a.png", "root"),
        ("{top}: {file}", "cat/red_fox-2.x.png", "cat: red fox-2.x"),
        ("{{{file}}}", "a.png", "{a}"),
        ("sks", "a.png", "sks"),
        ("{top}", "{file}/a.png", "{file}"),
    ],
)
def test_a_template_makes_captions_of_paths(template: str, key: str, caption: str, tmp_path: Path) -> None:
    picture(tmp_path / "root" / key)
    item = items_of(tmp_path / "root", template=template)[key]
    assert (item.captions, item.problem) == ((caption,), None)


@pytest.mark.parametrize(
    "template", ["", " ", "{label}", "{top", "{}", "{0}", "{top!r}", "{top:>9}", "{top.__class__}", "{top[0]}"]
)
def test_a_template_that_cannot_be_filled_is_refused(template: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"accepted are \{folder\}.*\{top\}.*\{file\}"):
        Folder(str(tmp_path), template=template)


def test_class_folders_give_their_names_as_captions(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/deep/a.png", "cat/b.png", "stray.png"):
        picture(tmp_path / name)
    describe(tmp_path, {"file_name": "dog/b.png", "text": "not asked for"})
    items = items_of(tmp_path, captions="template", template="{top}")
    captions = {"cat/b.png": ("cat",), "cat/deep/a.png": ("cat",), "dog/b.png": ("dog",), "stray.png": ()}
    assert {key: item.captions for key, item in items.items()} == captions
    assert "not in a folder of its class" in str(items["stray.png"].problem)


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES | {".PNG", ".JPEG"}))
def test_pictures_of_each_ending_are_found(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").touch()
    (tmp_path / "a.md").touch()
    (item,) = items_of(tmp_path, template="x").values()
    assert item.key == f"a{suffix}"


@pytest.mark.parametrize("with_metadata", [True, False])
def test_the_order_is_that_of_the_paths(with_metadata: bool, tmp_path: Path) -> None:
    names = ["b.png", "a/z.png", "a.png", "B.png", "c/a.png", "10.png", "9.png", "é.png"]
    for name in names:
        picture(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("x")
    if with_metadata:
        describe(tmp_path, *({"file_name": name, "text": "x"} for name in reversed(names)))
    assert list(items_of(tmp_path)) == sorted(names)


@pytest.mark.parametrize(
    "name", [b"a\nb.png", b"\xff\xfe.png", "à.png".encode(), b"\\.png", b"a b.png", b"#.png", b"a.b.png"]
)
def test_names_of_all_kinds_work(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"sub\xff") / os.fsdecode(name)
    captioned(path)
    (item,) = items_of(tmp_path).values()
    assert item.key == f"{os.fsdecode(b'sub' + NOT_UTF8)}/{os.fsdecode(name)}"
    assert item.origin.isprintable()
    assert item.picture is not None
    assert item.picture.read() == path.read_bytes()
    assert item.captions == ("x",)


def test_metadata_can_name_a_file_whose_name_is_not_utf8(tmp_path: Path) -> None:
    picture(tmp_path / os.fsdecode(b"\xff.png"))
    describe(tmp_path, json.dumps({"file_name": os.fsdecode(b"\xff.png"), "text": "x"}).encode())
    (item,) = items_of(tmp_path).values()
    assert item.captions == ("x",)


@pytest.mark.parametrize(
    "name", ["@eaDir", "lost+found", ".snapshot", "$RECYCLE.BIN", "#recycle", "System Volume Information"]
)
def test_pictures_of_the_system_are_not_counted(name: str, tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    captioned(tmp_path / name / "b.png")
    captioned(tmp_path / "sub" / name.lower() / "c.png")
    assert list(items_of(tmp_path)) == ["a.png"]


def test_what_is_passed_over_is_noted(tmp_path: Path) -> None:
    for name in ("a.png", "__MACOSX/._a.png", ".hidden/b.png", ".c.png"):
        captioned(tmp_path / name)
    for name in ("1.psd", "2.PSD", "3.jxl", "LICENSE", "metadata.yaml"):
        (tmp_path / name).touch()
    assert list(items_of(tmp_path)) == ["a.png"]
    assert notes_of(tmp_path) == [
        "captions from files next to the pictures: 1 .txt",
        "hidden files and folders left out: 4 (.c.png, .c.txt, .hidden, …)",
        "not read as pictures: 1 file without an extension, 1 .yaml",
    ]


@pytest.mark.parametrize("make", ["missing", "file", "empty"])
def test_no_folder_or_no_picture_is_an_error(make: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if make == "file":
        folder.touch()
    elif make == "empty":
        folder.mkdir()
    with pytest.raises(ValueError, match=f"no picture in {folder}" if make == "empty" else "is not a folder"):
        list(Folder(str(folder)))


def test_a_folder_whose_name_is_a_number_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a config reads it."""
    captioned(tmp_path / "2024/a.png")
    monkeypatch.chdir(tmp_path)
    assert [item.captions for item in Folder(2024)] == [("x",)]  # type: ignore[arg-type]


def test_where_no_picture_is_found_other_kinds_of_source_are_named(tmp_path: Path) -> None:
    (tmp_path / "0.tar").touch()
    with pytest.raises(ValueError, match=r"there are 1 \.tar; source=webdataset reads \.tar; is it the right folder"):
        list(Folder(str(tmp_path)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"captions": "txt"}, "source.captions=txt is unknown; accepted are auto, metadata, sidecar, template, and a list"),
        ({"captions": []}, "source.captions=[] is unknown"),
        ({"lines": "all"}, "source.lines=all is unknown; accepted are each, one"),
        ({"captions": "template"}, "source.captions=template needs one: source.template={folder}"),
        ({"captions": "metadata"}, "source.captions=metadata, but no metadata.jsonl, .csv or .parquet is in"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, str], words: str, tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    with pytest.raises(ValueError, match=re.escape(words)):
        items_of(tmp_path, **settings)
