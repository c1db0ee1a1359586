"""A corpus of what can be wrong in a folder of captioned pictures: each is reported, and spares the others."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.folders import NOT_UTF8, Make, captioned, describe, items_of, picture

# How to make it next to good.png (in metadata.jsonl), the key that tells it, and its words.


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
    "a NUL in file_name": (named("a\0.png"), "a\0.png", "names a\\x00.png, which is not a picture in the folder"),
    "named in another split": (
        named("./sub/..//good.png", split="test"),
        "metadata.jsonl:2",
        "as metadata.jsonl line 1 does already",
    ),
    "a picture that is gone": (named("gone.png"), "gone.png", "line 2 names gone.png, which is not a picture in the folder"),
    "other case": (named("GOOD.png"), "GOOD.png", "which is not a picture in the folder; there is good.png"),
    "a way out": (named("../outside.png"), "metadata.jsonl:2", "names ../outside.png, which is outside the folder"),
    "an absolute path": (
        named("/etc/outside.png"),
        "metadata.jsonl:2",
        "names /etc/outside.png, which is outside the folder",
    ),
    "a file that is no picture": (named("metadata.jsonl"), "metadata.jsonl", "which is not a picture in the folder"),
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
    "a NUL in a caption": (
        named("sub/more.png", text="a\0b"),
        "sub/more.png",
        "contains a NUL byte, so it is binary: a\\x00b",
    ),
    "half a character": (
        line(b'{"file_name": "sub/more.png", "text": "a\\ud800"}'),
        "sub/more.png",
        "is not valid Unicode: a\\ud800",
    ),
}


@pytest.mark.parametrize("fault", METADATA_FAULTS)
def test_faults_of_metadata_are_reported_and_spare_the_others(fault: str, tmp_path: Path) -> None:
    make, key, words = METADATA_FAULTS[fault]
    picture(tmp_path / "outside.png")
    picture(tmp_path / "in/good.png")
    picture(tmp_path / "in/sub/more.png")
    make(tmp_path / "in")
    items = items_of(tmp_path / "in")
    assert words in str(items[key].problem)
    assert (items["good.png"].captions, items["good.png"].problem) == (("x",), None)


TABLE_FAULTS: dict[str, tuple[str, bytes, str, str]] = {
    "csv: empty": ("csv", b"", "metadata.csv", "does not start with the names of its columns: it is empty"),
    "csv: no header": ("csv", b"a.png,a cat\nb.png,a dog\n", "metadata.csv:2", "has no 'file_name'; it has a.png, a cat"),
    "csv: a header alone": ("csv", b"file_name,text\n", "metadata.csv", "metadata.csv has no row"),
    "jsonl: empty": ("jsonl", b"\n", "metadata.jsonl", "metadata.jsonl has no row"),
    "csv: another header": (
        "csv",
        b"image,text\na.png,x\nb.png,y\n",
        "metadata.csv:2",
        "has no 'file_name'; it has image, text",
    ),
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
    "csv: short row": ("csv", b"file_name,text\na.png\n", "a.png", "no caption: metadata.csv line 2 has no text in 'text'"),
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
def test_faults_of_tables_are_reported(fault: str, tmp_path: Path) -> None:
    kind, content, key, words = TABLE_FAULTS[fault]
    picture(tmp_path / "a.png")
    (tmp_path / f"metadata.{kind}").write_bytes(content)
    items = items_of(tmp_path)
    assert words in str(items[key].problem)
    assert items["a.png"].problem is not None


def test_a_parquet_row_that_is_no_utf8_is_reported_and_spares_the_others(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    text = pyarrow.array([b"x", b"\xff"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"file_name": ["a.png", "b.png"], "text": text}), tmp_path / "metadata.parquet")
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    items = items_of(tmp_path)
    assert items["a.png"].captions == ("x",)
    assert items["metadata.parquet:2"].problem == "metadata.parquet row 2 is not UTF-8: byte 0xff"


def test_metadata_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").symlink_to(tmp_path / "gone")
    items = items_of(tmp_path, captions="metadata")
    assert items["metadata.jsonl"].problem == "metadata.jsonl cannot be read: No such file or directory"
    assert items["a.png"].problem == f"not named in metadata.jsonl; {items['metadata.jsonl'].problem}"


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
    "none": ("a.txt", None, "no caption: there is no .txt or .caption or .json of its name next to it"),
    "empty": ("a.txt", b"", "no caption: a.txt is empty"),
    "blank": ("a.caption", b" \n\t\n", "no caption: a.caption is empty"),
    "no UTF-8": ("a.txt", b"caf\xe9", "no caption: a.txt is not UTF-8: byte 0xe9 at 3; save it as UTF-8"),
    "no UTF-8 after a mark": ("a.txt", b"\xef\xbb\xbfcaf\xe9", "byte 0xe9 at 6"),
    "half of UTF-16": ("a.txt", "café".encode("utf-16")[:-1], "starts as UTF-16 but is not"),
    "binary": ("a.txt", b"PK\0\x01", "no caption: a.txt contains a NUL byte, so it is binary: PK\\x00\\x01"),
    "json: half": ("a.json", b"{", "no caption: a.json is not JSON"),
    "json: a text": ("a.json", b'"x"', 'no caption: a.json is not a JSON object but "x"'),
    "json: without a caption": ("a.json", b'{"width": 3}', "no caption: a.json has no 'text'; it has width"),
    "json: an empty caption": ("a.json", b'{"text": []}', "no caption: a.json has no text in 'text'"),
    "json: NUL": ("a.json", b'{"text": "a\\u0000"}', "contains a NUL byte"),
}


@pytest.mark.parametrize("fault", SIDECAR_FAULTS)
def test_faults_of_sidecars_are_reported_and_spare_the_others(fault: str, tmp_path: Path) -> None:
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
        b'{"a.png": "x"}',
        b'{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "x"}]}',
        b"\xff\xfe",
        b"sep=;",
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


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet", "metadata.json", "a.txt", "a.json"])
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
