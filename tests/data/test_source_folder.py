"""A folder of captioned pictures: what it yields, in which order, and what it says of each thing it cannot use."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ldm_train.data.items import Item, PictureFile
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.walk import PICTURES

NOT_UTF8 = b"\xff"
Make = Callable[[Path], object]


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path, format="PNG")
    return path


def captioned(path: Path, text: str = "x") -> Path:
    picture(path).with_suffix(".txt").write_text(text, encoding="utf-8")
    return path


def describe(folder: Path, *rows: dict[str, object] | bytes) -> None:
    """Write metadata.jsonl: a JSON object, or raw bytes, a line."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    (folder / "metadata.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def parquet(path: Path, rows: list[dict[str, object]]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def items_of(folder: Path, **settings: str) -> dict[str, Item]:
    items = list(Folder(str(folder), **settings))  # type: ignore[arg-type]
    assert len({item.key for item in items}) == len(items)
    assert all(item.problem is None or (item.captions == () and item.origin) for item in items)
    return {item.key: item for item in items}


def notes_of(folder: Path, **settings: str) -> list[str]:
    source = Folder(str(folder), **settings)  # type: ignore[arg-type]
    list(source)
    return source.notes


# What is read


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
        *[(split, True, {}) for split in ("held_out", "validation", "val", "test", " Validation ")],
        *[(split, False, {}) for split in ("train", "", None)],
        ("dev", False, {"split": "dev"}),
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
        "captions from files beside the pictures: 1 .caption, 1 .txt",
        "files of captions that belong to no picture: 1 (the first: b.txt)",
    ]


@pytest.mark.parametrize(
    ("template", "key", "caption"),
    [
        ("{top}", "cat/deep/a.png", "cat"),
        ("a {folder}", "cat/deep/a.png", "a deep"),
        ("{folder}", "a.png", "root"),
        ("{top}: {file}", "cat/red_fox-2.x.png", "cat: red_fox-2.x"),
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


@pytest.mark.parametrize("suffix", sorted(PICTURES | {".PNG", ".JPEG"}))
def test_pictures_of_each_ending_are_found_and_pillow_reads_them(suffix: str, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / f"a{suffix}")
    (tmp_path / "a.md").touch()
    (item,) = items_of(tmp_path, template="x").values()
    assert item.key == f"a{suffix}"
    with Image.open(tmp_path / item.key) as opened:
        opened.load()


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
    describe(tmp_path, b'{"file_name": "\\udcff.png", "text": "x"}')
    (item,) = items_of(tmp_path).values()
    assert item.captions == ("x",)


# Links


def test_links_are_followed_and_what_lies_in_the_folder_is_read_there(tmp_path: Path) -> None:
    captioned(tmp_path / "elsewhere/a.png")
    captioned(tmp_path / "root/z/b.png")
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/a_to_z").symlink_to(tmp_path / "root/z")
    items = items_of(tmp_path / "root")
    assert {key for key, item in items.items() if item.problem is None} == {"link/a.png", "z/b.png"}
    assert items["a_to_z"].problem == "leads back to the folder z, which is not read again from here"


@pytest.mark.parametrize("target", [".", "..", "../..", "deep", "/"])
def test_walking_in_circles_is_told(target: str, tmp_path: Path) -> None:
    captioned(tmp_path / "in/a.png")
    (tmp_path / "in/deep").mkdir()
    (tmp_path / "in/deep/loop").symlink_to(Path(target) if target == "/" else tmp_path / "in/deep" / target)
    items = items_of(tmp_path / "in")
    if target == "deep":  # a link to itself
        assert items["deep/loop"].problem == "a link that leads nowhere"
    else:
        assert "leads back to" in str(items["deep/loop"].problem)
    assert items["a.png"].captions == ("x",)
    assert set(items) == {"a.png", "deep/loop"}


def test_two_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    for one, other in (("one", "two"), ("two", "one")):
        captioned(tmp_path / one / "a.png")
        (tmp_path / one / "link").symlink_to(tmp_path / other)
    assert set(items_of(tmp_path)) == {"one/a.png", "one/link", "two/a.png", "two/link"}


@pytest.mark.parametrize("target", ["gone.png", "a.png"])
def test_a_broken_link_to_a_picture_is_an_item_that_cannot_be_read(target: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / target)
    (tmp_path / "a.txt").write_text("x")
    (item,) = items_of(tmp_path).values()
    assert item.problem is None
    assert item.picture is not None
    with pytest.raises(OSError, match=r"a\.png|gone\.png"):
        item.picture.read()


def test_a_link_to_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    (tmp_path / "cats").symlink_to(tmp_path / "unmounted")
    assert items_of(tmp_path)["cats"].problem == "a link that leads nowhere"


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert items_of(tmp_path)["b.png"].problem == "neither a file nor a folder"


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioned(tmp_path / "a.png")
    captioned(tmp_path / "closed/b.png")
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    items = items_of(tmp_path)
    assert set(items) == {"a.png", "closed"}
    assert items["closed"].problem == "the folder cannot be read: Permission denied"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not hold for root")
@pytest.mark.parametrize(("name", "key"), [("closed", "closed"), ("a.txt", "a.png")])
def test_permissions_are_told(name: str, key: str, tmp_path: Path) -> None:
    captioned(tmp_path / "b.png")
    captioned(tmp_path / "a.png")
    captioned(tmp_path / "closed/b.png")
    (tmp_path / name).chmod(0)
    try:
        assert "cannot be read: Permission denied" in str(items_of(tmp_path)[key].problem)
    finally:
        (tmp_path / name).chmod(0o700)


def test_a_caption_that_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioned(tmp_path / "a.png")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert items_of(tmp_path)["a.png"].problem == "no caption: a.txt cannot be read: Permission denied"


# A corpus of what is wrong: how to make it beside good.png (in metadata.jsonl), the key that tells it, and its words.


def line(*lines: bytes | dict[str, object]) -> Make:
    return lambda folder: describe(folder, {"file_name": "good.png", "text": "x"}, *lines)


def named(file_name: object, **more: object) -> Make:
    return line({"file_name": file_name, "text": "y", **more})


METADATA_FAULTS: dict[str, tuple[Make, str, str]] = {
    "half an object": (line(b'{"file_name": '), "metadata.jsonl:2", "metadata.jsonl line 2 is not JSON: "),
    "a list": (line(b'["file_name"]'), "metadata.jsonl:2", 'is not a JSON object but ["file_name"]'),
    "null": (line(b"null"), "metadata.jsonl:2", "is not a JSON object but null"),
    "a text": (line(b'"file_name"'), "metadata.jsonl:2", "is not a JSON object"),
    "a deep nest": (line(b"[" * 100_000), "metadata.jsonl:2", "is not JSON"),
    "a huge number": (line(b'{"file_name": ' + b"9" * 9_999 + b"}"), "metadata.jsonl:2", "is not JSON"),
    "blank lines before": (line(b"", b" ", b"{"), "metadata.jsonl:4", "metadata.jsonl line 4 is not JSON"),
    "bytes that are no UTF-8": (
        line(b'{"text": "\xff"}'),
        "metadata.jsonl:2",
        "is not UTF-8: byte 0xff at 10; save it as UTF-8",
    ),
    "no file_name": (line({"text": "y"}), "metadata.jsonl:2", "metadata.jsonl line 2 has no 'file_name'; it has text"),
    "a number as file_name": (named(3), "metadata.jsonl:2", "file_name is not a text but 3"),
    "no text as file_name": (named(None), "metadata.jsonl:2", "file_name is not a text but None"),
    "an empty file_name": (named(" "), "metadata.jsonl:2", "file_name is not a text but ' '"),
    "a NUL in file_name": (named("a\0.png"), "a\0.png", "names a\\x00.png, which is no picture in the folder"),
    "named twice": (named("good.png"), "metadata.jsonl:2", "names good.png, as metadata.jsonl line 1 does already"),
    "named twice in two ways": (named("./sub/..//good.png"), "metadata.jsonl:2", "as metadata.jsonl line 1 does already"),
    "a picture that is gone": (named("gone.png"), "gone.png", "line 2 names gone.png, which is no picture in the folder"),
    "other case": (named("GOOD.png"), "GOOD.png", "which is no picture in the folder; there is good.png"),
    "backslashes": (named("sub\\more.png"), "sub\\more.png", "no picture in the folder; there is sub/more.png"),
    "a way out": (named("../outside.png"), "metadata.jsonl:2", "names ../outside.png, which leads out of the folder"),
    "an absolute path": (
        named("/etc/outside.png"),
        "metadata.jsonl:2",
        "names /etc/outside.png, which leads out of the folder",
    ),
    "a file that is no picture": (named("metadata.jsonl"), "metadata.jsonl", "which is no picture in the folder"),
    "a picture that is not named": (line(), "sub/more.png", "not named in metadata.jsonl"),
    "no caption": (
        line({"file_name": "sub/more.png"}),
        "sub/more.png",
        "no caption: metadata.jsonl line 2 has no 'text'; it has file_name",
    ),
    "another column": (
        line({"file_name": "sub/more.png", "caption": "y"}),
        "sub/more.png",
        "did you mean source.caption_column=caption?",
    ),
    "an empty caption": (
        named("sub/more.png", text=""),
        "sub/more.png",
        "no caption: metadata.jsonl line 2 has no text in 'text'",
    ),
    "a caption of blanks": (named("sub/more.png", text=" \t\n"), "sub/more.png", "has no text in 'text'"),
    "a number as caption": (named("sub/more.png", text=7), "sub/more.png", "has no text in 'text'"),
    "a NUL in a caption": (named("sub/more.png", text="a\0b"), "sub/more.png", "holds a NUL byte, so it is binary: a\\x00b"),
    "half a character": (
        line(b'{"file_name": "sub/more.png", "text": "a\\ud800"}'),
        "sub/more.png",
        "is not valid Unicode: a\\ud800",
    ),
}


@pytest.mark.parametrize("fault", METADATA_FAULTS)
def test_faults_of_metadata_are_told_and_spare_the_others(fault: str, tmp_path: Path) -> None:
    make, key, words = METADATA_FAULTS[fault]
    picture(tmp_path / "outside.png")
    picture(tmp_path / "in/good.png")
    picture(tmp_path / "in/sub/more.png")
    make(tmp_path / "in")
    items = items_of(tmp_path / "in")
    assert words in str(items[key].problem)
    assert (items["good.png"].captions, items["good.png"].problem) == (("x",), None)


TABLE_FAULTS: dict[str, tuple[str, bytes, str, str]] = {
    "csv: empty": ("csv", b"", "metadata.csv", "does not begin with the names of its columns: it is empty"),
    "csv: no header": ("csv", b"a.png,a cat\nb.png,a dog\n", "metadata.csv:2", "has no 'file_name'; it has a.png, a cat"),
    "csv: a header alone": ("csv", b"file_name,text\n", "metadata.csv", "metadata.csv has no row"),
    "jsonl: empty": ("jsonl", b"\n", "metadata.jsonl", "metadata.jsonl has no row"),
    "csv: another header": (
        "csv",
        b"image,text\na.png,x\nb.png,y\n",
        "metadata.csv:2",
        "has no 'file_name'; it has image, text",
    ),
    "csv: semicolons": ("csv", b"file_name;text\na.png;x\n", "metadata.csv:2", "it has file_name;text"),
    "csv: a column twice": ("csv", b"file_name,text,text\na.png,x,y\n", "metadata.csv", "has two columns of one name"),
    "csv: header no UTF-8": ("csv", b"file_name,t\xe9xt\na.png,x\n", "metadata.csv", "is not UTF-8: byte 0xe9"),
    "csv: no caption column": (
        "csv",
        b"file_name,title\na.png,x\n",
        "a.png",
        "no caption: metadata.csv line 2 has no 'text'",
    ),
    "csv: bare comma": (
        "csv",
        b"file_name,text\na.png,a cat, asleep\n",
        "metadata.csv:2",
        "has 3 values for 2 columns; put quotes",
    ),
    "csv: short row": ("csv", b"file_name,text\na.png\n", "a.png", "no caption: metadata.csv line 2 has no 'text'"),
    "csv: row no UTF-8": (
        "csv",
        b"file_name,text\nb.png,y\na.png,\xff\n",
        "metadata.csv:3",
        "line 3 is not UTF-8: byte 0xff",
    ),
    "csv: open quote": ("csv", b'file_name,text\na.png,"x\nb.png,y\n', "metadata.csv:2", "(is a quote left open?)"),
    "csv: NUL": ("csv", b"file_name,text\na.png,x\0y\n", "a.png", "NUL"),
    "parquet: no parquet": ("parquet", b"PAR1 not really", "metadata.parquet", "cannot be read after 0 rows"),
    "parquet: empty": ("parquet", b"", "metadata.parquet", "cannot be read after 0 rows"),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_faults_of_tables_are_told(fault: str, tmp_path: Path) -> None:
    kind, content, key, words = TABLE_FAULTS[fault]
    picture(tmp_path / "a.png")
    (tmp_path / f"metadata.{kind}").write_bytes(content)
    items = items_of(tmp_path)
    assert words in str(items[key].problem)
    assert items["a.png"].problem is not None


def test_a_parquet_row_that_is_no_utf8_is_told_and_spares_the_others(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    text = pyarrow.array([b"x", b"\xff"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"file_name": ["a.png", "b.png"], "text": text}), tmp_path / "metadata.parquet")
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    items = items_of(tmp_path)
    assert items["a.png"].captions == ("x",)
    assert items["metadata.parquet:2"].problem == "metadata.parquet row 2 is not UTF-8: byte 0xff"


def test_metadata_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").symlink_to(tmp_path / "gone")
    items = items_of(tmp_path, captions="metadata")
    assert items["metadata.jsonl"].problem == "metadata.jsonl cannot be read: No such file or directory"
    assert items["a.png"].problem == "not named in metadata.jsonl"


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_byte_order_mark_is_accepted(kind: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    text = {"jsonl": '{"file_name": "a.png", "text": "x"}\n', "csv": "file_name,text\na.png,x\n"}[kind]
    (tmp_path / f"metadata.{kind}").write_text(text, encoding="utf-8-sig")
    assert items_of(tmp_path)["a.png"].captions == ("x",)


def test_a_record_of_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_bytes(b'file_name,text\r\n"gone.png","two\nlines"\r\n\r\na.png,"a, ""b"""\r\n')
    items = items_of(tmp_path)
    assert (items["a.png"].captions, items["a.png"].origin) == (('a, "b"',), "metadata.csv line 5")
    assert items["gone.png"].origin == "metadata.csv line 2"


SIDECAR_FAULTS: dict[str, tuple[str, bytes | None, str]] = {
    "none": ("a.txt", None, "no caption: beside it lies no a.txt, a.caption or a.json"),
    "empty": ("a.txt", b"", "no caption: a.txt is empty"),
    "blank": ("a.caption", b" \n\t\n", "no caption: a.caption is empty"),
    "no UTF-8": ("a.txt", b"caf\xe9", "no caption: a.txt is not UTF-8: byte 0xe9 at 3; save it as UTF-8"),
    "no UTF-8 after a mark": ("a.txt", b"\xef\xbb\xbfcaf\xe9", "byte 0xe9 at 6"),
    "UTF-16": ("a.txt", "café".encode("utf-16"), "is not UTF-8: byte 0xff at 0"),
    "binary": ("a.txt", b"PK\0\x01", "no caption: a.txt holds a NUL byte, so it is binary: PK\\x00\\x01"),
    "json: half": ("a.json", b"{", "no caption: a.json is not JSON"),
    "json: a text": ("a.json", b'"x"', 'no caption: a.json is not a JSON object but "x"'),
    "json: without a caption": ("a.json", b'{"width": 3}', "no caption: a.json has no 'text'; it has width"),
    "json: an empty caption": ("a.json", b'{"text": []}', "no caption: a.json has no text in 'text'"),
    "json: NUL": ("a.json", b'{"text": "a\\u0000"}', "holds a NUL byte"),
}


@pytest.mark.parametrize("fault", SIDECAR_FAULTS)
def test_faults_of_sidecars_are_told_and_spare_the_others(fault: str, tmp_path: Path) -> None:
    name, content, words = SIDECAR_FAULTS[fault]
    picture(tmp_path / "a.png")
    captioned(tmp_path / "good.png")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    items = items_of(tmp_path)
    assert words in str(items["a.png"].problem)
    assert items["good.png"].captions == ("x",)


def test_a_damaged_sidecar_is_not_covered_up_by_another(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    (tmp_path / "a.caption").write_bytes(NOT_UTF8)
    assert "a.caption is not UTF-8" in str(items_of(tmp_path)["a.png"].problem)


def test_a_name_that_is_no_text_is_no_caption(tmp_path: Path) -> None:
    picture(tmp_path / os.fsdecode(b"\xff/a.png"))
    (item,) = items_of(tmp_path, template="{top}").values()
    assert item.problem == "no caption: \\udcff/a.png is not valid Unicode: \\udcff"


ANY_BYTES = st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
LIKELY = st.sampled_from(
    [
        b'{"file_name": "a.png", "text": "x"}',
        b"file_name,text",
        b"a.png,x",
        b"{",
        b'"',
        b",",
        b"\n",
        b"\r",
        b"\0",
        b"PAR1",
        b"[",
        b"\xef\xbb\xbf",
    ]
)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet", "a.txt", "a.json"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(LIKELY | ANY_BYTES, max_size=8))
def test_no_content_is_an_exception(parts: list[bytes], name: str, tmp_path: Path) -> None:
    """And captions can be written down whatever they were read from."""
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes(b"".join(parts))
    item = items_of(tmp_path)["a.png"]
    assert (item.problem is None) == bool(item.captions)
    assert all(caption.encode() and caption.strip() and "\0" not in caption for caption in item.captions)
    assert all((key + text).encode() is not None for key, text in item.fields.items())


# Where captions stand in two places


def agree(folder: Path) -> None:
    describe(folder, {"file_name": "a.png", "text": "x"})
    (folder / "a.txt").write_text("x\n")


def differ(folder: Path) -> None:
    describe(folder, {"file_name": "a.png", "text": "x"})
    (folder / "a.txt").write_text("y")


def only_sidecar(folder: Path) -> None:
    describe(folder, {"file_name": "b.png", "text": "x"})
    (folder / "a.txt").write_text("y")


def two_sidecars(folder: Path) -> None:
    (folder / "a.txt").write_text("x")
    (folder / "a.caption").write_text("y")


def test_two_places_that_agree_are_one(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    agree(tmp_path)
    assert items_of(tmp_path)["a.png"].origin == "metadata.jsonl line 1"
    assert notes_of(tmp_path) == ["captions from metadata.jsonl"]


@pytest.mark.parametrize(
    ("make", "template", "words"),
    [
        (
            differ,
            None,
            "a.txt says 'y', but metadata.jsonl line 1 says 'x'; set source.captions=metadata, sidecar or template",
        ),
        (only_sidecar, None, "a.txt says 'y', but nothing is known of it (not named in metadata.jsonl)"),
        (two_sidecars, None, "a.caption says 'y', a.txt says 'x'; which one is meant? keep one of the two files"),
        (agree, "{file}", "metadata.jsonl line 1 says 'x', but a.png says 'a'; set source.captions=metadata"),
        (lambda folder: (folder / "a.txt").write_text("y"), "{file}", "a.txt says 'y', but a.png says 'a'"),
    ],
)
def test_two_places_that_differ_are_refused(make: Make, template: str | None, words: str, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    make(tmp_path)
    with pytest.raises(ValueError, match=re.escape(words)):
        list(Folder(str(tmp_path), template=template))


@pytest.mark.parametrize(("captions", "text"), [("metadata", "x"), ("sidecar", "y"), ("template", "a")])
def test_a_choice_settles_it(captions: str, text: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    differ(tmp_path)
    assert items_of(tmp_path, captions=captions, template="{file}")["a.png"].captions == (text,)
    has_effect = captions == "template"
    assert (
        "source.template has no effect" in " ".join(notes_of(tmp_path, captions=captions, template="{file}"))
    ) != has_effect


def test_two_sidecars_that_differ_are_a_problem_of_one_picture_where_sidecars_are_chosen(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    two_sidecars(tmp_path)
    assert "two captions of one picture" in str(items_of(tmp_path, captions="sidecar")["a.png"].problem)


def test_two_metadata_files_in_one_folder_are_refused_and_in_two_folders_are_not(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "sub/b.png")
    picture(tmp_path / "c.png")
    describe(tmp_path, {"file_name": "a.png", "text": "x"}, {"file_name": "sub/b.png", "text": "y"})
    describe(tmp_path / "sub", {"file_name": "b.png", "text": "z"})
    items = items_of(tmp_path)
    assert items["sub/b.png"].captions == ("y",)
    assert (
        items["sub/metadata.jsonl:1"].problem
        == "sub/metadata.jsonl line 1 names b.png, as metadata.jsonl line 2 does already"
    )
    assert items["c.png"].problem == "not named in metadata.jsonl or the 1 further metadata files"
    (tmp_path / "sub/metadata.csv").write_text("file_name,text\nb.png,z\n")
    with pytest.raises(ValueError, match=r"one folder has sub/metadata\.csv, sub/metadata\.jsonl; keep one"):
        items_of(tmp_path)


# What is noted, and what is refused


def test_what_is_passed_over_is_noted(tmp_path: Path) -> None:
    for name in ("a.png", "__MACOSX/._a.png", ".hidden/b.png", ".c.png"):
        captioned(tmp_path / name)
    for name in ("1.psd", "2.PSD", "3.heic", "LICENSE", "metadata.yaml"):
        (tmp_path / name).touch()
    assert list(items_of(tmp_path)) == ["a.png"]
    assert notes_of(tmp_path) == [
        "captions from files beside the pictures: 1 .txt",
        "hidden files and folders left out: 4 (.c.png, .c.txt, .hidden, …)",
        "not read as pictures: 2 .psd, 1 .heic, 1 without an ending, 1 .yaml",
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
        ({"captions": "txt"}, "source.captions=txt is unknown; accepted are auto, metadata, sidecar, template"),
        ({"captions": "template"}, "source.captions=template needs source.template"),
        ({"captions": "metadata"}, "source.captions=metadata, but no metadata.jsonl, .csv or .parquet is in"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, str], words: str, tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    with pytest.raises(ValueError, match=re.escape(words)):
        items_of(tmp_path, **settings)
