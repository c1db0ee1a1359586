"""A folder of captioned pictures: what it yields, in which order, and what it says of each thing it cannot use."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.data.sources import ClassFolders, Folder, Item


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path)
    return path


def describe(folder: Path, *rows: dict[str, object] | bytes) -> None:
    """Write metadata.jsonl: a JSON object, or raw bytes, a line."""
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    (folder / "metadata.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def only(folder: Path, key: str) -> Item:
    """The one item of this key."""
    (item,) = [item for item in Folder(str(folder)) if item.key == key]
    return item


def test_metadata_gives_captions_split_and_further_fields(tmp_path: Path) -> None:
    path = picture(tmp_path / "deep/er/a.png")
    describe(tmp_path, {"file_name": "deep/er/a.png", "text": " an à ", "background": "red", "size": 3, "split": "train"})
    (item,) = Folder(str(tmp_path))
    assert item == Item("deep/er/a.png", path, ("an à",), held_out=False, fields={"background": "red", "size": "3"})


@pytest.mark.parametrize(
    ("split", "held_out"),
    [("held_out", True), ("validation", True), ("val", True), ("test", True), ("train", False), ("", False), (None, False)],
)
def test_split_keeps_from_training(split: str | None, held_out: bool, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    describe(tmp_path, {"file_name": "a.png", "text": "x", "split": split})
    assert only(tmp_path, "a.png").held_out is held_out


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("one", ("one",)),
        (["one", " two "], ("one", "two")),
        (["", "two", None, 3], ("two",)),
        ("", ()),
        ("  \n", ()),
        ([], ()),
        (None, ()),
        (7, ()),
    ],
)
def test_captions_are_texts_that_say_something(text: object, captions: tuple[str, ...], tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    describe(tmp_path, {"file_name": "a.png", "text": text})
    item = only(tmp_path, "a.png")
    assert item.captions == captions
    assert (item.problem is None) == bool(captions)
    assert captions or "no caption: metadata.jsonl line 1 has no text in 'text'" in str(item.problem)


def test_caption_column_is_a_setting(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    describe(tmp_path, {"file_name": "a.png", "text": "x", "title": "y"})
    (item,) = Folder(str(tmp_path), caption_column="title")
    assert item.captions == ("y",)
    assert item.fields == {"text": "x"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not a JSON object with file_name"),
        (b'{"text": "x"}', "not a JSON object with file_name"),
        (b'{"file_name": 3, "text": "x"}', "file_name is not a text"),
        (b'["file_name"]', "not a JSON object with file_name"),
        (b"null", "not a JSON object with file_name"),
        (b'"file_name"', "not a JSON object with file_name"),
        (b'{"file_name": "\xff.png", "text": "x"}', "not a JSON object with file_name"),
    ],
)
def test_a_malformed_line_is_named_by_its_number_and_spares_the_others(line: bytes, reason: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    describe(tmp_path, b"", line, {"file_name": "a.png", "text": "x"})
    items = {item.key: item for item in Folder(str(tmp_path))}
    assert items["a.png"].problem is None
    assert set(items) == {"a.png", "metadata.jsonl:2"}
    assert reason in str(items["metadata.jsonl:2"].problem)
    assert "metadata.jsonl line 2" in str(items["metadata.jsonl:2"].problem)


def test_a_file_named_twice_is_used_once_and_told(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    describe(tmp_path, {"file_name": "a.png", "text": "first"}, {"file_name": "a.png", "text": "second"})
    items = {item.key: item for item in Folder(str(tmp_path))}
    assert items["a.png"].captions == ("first",)
    assert items["metadata.jsonl:2"].problem == "a.png stands in metadata.jsonl twice"
    assert items["metadata.jsonl:2"].captions == ()


def test_two_malformed_lines_are_two_problems(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    describe(tmp_path, b"{", b"{", {"file_name": "a.png", "text": "x"})
    assert sorted(item.key for item in Folder(str(tmp_path))) == ["a.png", "metadata.jsonl:1", "metadata.jsonl:2"]


def test_a_picture_that_is_not_named_and_a_name_without_a_picture_are_problems(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "extra.png")
    describe(tmp_path, {"file_name": "a.png", "text": "x"}, {"file_name": "gone.png", "text": "y"})
    assert only(tmp_path, "extra.png").problem == "not named in metadata.jsonl"
    assert only(tmp_path, "gone.png").problem == "metadata.jsonl line 2 names gone.png, which is no picture in the folder"
    assert only(tmp_path, "a.png").problem is None


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    picture(tmp_path / "outside.png")
    picture(tmp_path / "in/a.png")
    describe(tmp_path / "in", {"file_name": "../outside.png", "text": "x"}, {"file_name": "a.png", "text": "y"})
    assert "no picture in the folder" in str(only(tmp_path / "in", "../outside.png").problem)


@pytest.mark.parametrize(
    ("text", "captions"),
    [("one\n", ("one",)), ("one\n\n  two \n", ("one", "two")), ("ünï\r\n", ("ünï",)), ("", ()), (" \n\n", ())],
)
def test_sidecars_hold_a_caption_a_line(text: str, captions: tuple[str, ...], tmp_path: Path) -> None:
    picture(tmp_path / "deep/a.jpg")
    (tmp_path / "deep/a.txt").write_text(text, encoding="utf-8", newline="")
    item = only(tmp_path, "deep/a.jpg")
    assert item.captions == captions
    assert item.problem == (None if captions else "no caption: a.txt is empty")


def test_a_missing_or_unreadable_sidecar_is_a_problem(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    assert only(tmp_path, "a.png").problem == "no caption: neither metadata.jsonl nor a.txt is there"
    assert "b.txt cannot be read" in str(only(tmp_path, "b.png").problem)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".JPEG", ".webp", ".bmp", ".gif", ".tif", ".tiff"])
def test_endings_of_pictures(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").touch()
    (tmp_path / "notes.md").touch()
    assert [item.key for item in Folder(str(tmp_path))] == [f"a{suffix}"]


@pytest.mark.parametrize("with_metadata", [True, False])
def test_the_order_is_that_of_the_keys(with_metadata: bool, tmp_path: Path) -> None:
    names = ["b.png", "a/z.png", "a.png", "B.png", "c/a.png", "10.png", "9.png"]
    for name in names:
        picture(tmp_path / name).with_suffix(".txt").write_text("x")
    if with_metadata:
        describe(tmp_path, *({"file_name": name, "text": "x"} for name in reversed(names)))
    keys = [item.key for item in Folder(str(tmp_path))]
    assert keys == [item.key for item in Folder(str(tmp_path))]
    assert sorted(keys) == sorted(names)
    if with_metadata:
        describe(tmp_path, *({"file_name": name, "text": "x"} for name in names))
        assert [item.key for item in Folder(str(tmp_path))] == keys


@pytest.mark.parametrize("make", ["missing", "file", "empty"])
def test_no_folder_or_no_picture_is_an_error(make: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if make == "file":
        folder.touch()
    elif make == "empty":
        folder.mkdir()
    with pytest.raises(ValueError, match="no picture in" if make == "empty" else "is not a folder"):
        list(Folder(str(folder)))


def test_a_folder_of_class_folders_gives_their_names_as_captions(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/deep/a.png", "cat/b.png", "stray.png"):
        picture(tmp_path / name)
    items = list(ClassFolders(str(tmp_path)))
    assert [(item.key, item.captions) for item in items] == [
        ("cat/b.png", ("cat",)),
        ("cat/deep/a.png", ("cat",)),
        ("dog/b.png", ("dog",)),
        ("stray.png", ()),
    ]
    assert "not in a folder of its class" in str(items[-1].problem)


@pytest.mark.parametrize("source", [Folder, ClassFolders])
def test_no_folder_and_no_picture_are_told(source: type, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        source(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no picture in"):
        list(source(str(tmp_path)))
