"""Folders as people have them: captions elsewhere, other programs' tables and names, split folders, system folders."""

import json
import shlex
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.data.sources.caption_hints import is_caption_name
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.source import MAX_FIELD
from ldm_train.data.sources.table import Table
from tests.data.folders import captioned, describe, items_of, notes_of, picture

COMPOSED, APART = (unicodedata.normalize(form, "café 1") for form in ("NFC", "NFD"))


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def captions_of(folder: Path, **settings: object) -> dict[str, tuple[str, ...]]:
    return {key: item.captions for key, item in items_of(folder, **settings).items()}  # type: ignore[arg-type]


def hints_of(folder: Path, **settings: object) -> str:
    source = Folder(str(folder), **settings)  # type: ignore[arg-type]
    list(source)
    return "\n".join(source.warnings)


COCO = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "gone.png"}],
    "annotations": [{"image_id": n, "caption": text} for n, text in ((7, "one"), (8, "x"), (7, "two"))],
}
TABLES: dict[str, object] = {
    "annotations/captions_train2017.json": COCO,
    "meta_cap.json": {"/home/else/images/a.png": {"caption": "one"}, "a": {"tags": "two"}},
    "images/metadata.json": [{"file_name": "a.png", "text": ["one", "two"]}],
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("given", [True, False], ids=["captions_from", "found"])
def test_tables_of_other_programs_are_read(name: str, given: bool, tmp_path: Path) -> None:
    picture(tmp_path / "in/images/a.png")
    file = tmp_path / ("elsewhere" if given else "in") / name
    write(file, json.dumps(TABLES[name]))
    settings = {"captions_from": str(file)} if given else {}
    assert captions_of(tmp_path / "in", **settings) == {"images/a.png": ("one", "two")}
    notes = notes_of(tmp_path / "in", **settings)
    assert any(file.name in note for note in notes)
    assert any(note.startswith("1 row ") for note in notes) == (TABLES[name] is COCO)


@pytest.mark.parametrize(
    ("mark", "keys", "left_out"),
    [
        ("manifest.json", ("format", "encoding", "shards", "files"), True),
        ("run.json", ("content", "starts"), True),
        ("manifest.json", ("name",), False),  # a web page's, such as
    ],
)
def test_caches_and_runs_below_are_left_out(mark: str, keys: tuple[str, ...], left_out: bool, tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    captioned(tmp_path / "deep/b/c.png")
    write(tmp_path / "deep/b" / mark, json.dumps(dict.fromkeys(keys)))
    assert list(items_of(tmp_path)) == ["a.png", "deep/b/c.png"][: 2 - left_out]
    assert any("left out" in note and "deep/b" in note for note in notes_of(tmp_path)) == left_out


def test_a_json_that_names_no_picture_changes_nothing(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    write(tmp_path / "metadata.json", '{"name": "my pictures", "version": "1"}')
    assert captions_of(tmp_path) == {"a.png": ("x",)}


def test_annotations_without_captions_are_named(tmp_path: Path) -> None:
    write(tmp_path / "t.json", json.dumps({"images": [], "annotations": [{"image_id": 1, "bbox": []}]}))
    (item,) = Table(str(tmp_path / "t.json"), path_column="x")
    assert "captions_*.json" in str(item.problem)


@pytest.mark.parametrize("name", ["captions/a.txt", "captions/train/a.txt"])
def test_captions_in_a_folder_of_their_own_are_found_and_read(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "images" / name.removeprefix("captions/")).with_suffix(".png")
    key = "images/" + name.removeprefix("captions/").replace(".txt", ".png")
    (tmp_path / "images" / name.removeprefix("captions/")).rename(tmp_path / key)
    write(tmp_path / name, "a cat")
    assert f"source.captions_from={tmp_path / 'captions'}" in hints_of(tmp_path)
    assert captions_of(tmp_path, captions_from=str(tmp_path / "captions")) == {key: ("a cat",)}


NAMING = {"metadata1000.jsonl": '{"file_name": "1.png", "text": "a cat"}', "captions.csv": "file_name,text\n1.png,a cat\n"}


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (["1.png", "metadata1000.jsonl", "other.csv"], "source.captions_from={root}/metadata1000.jsonl"),
        (["1.png", "captions.csv"], "source.captions_from={root}/captions.csv"),
        (["10_sks dog/1.png", "1_dog/2.png"], "source=kohya"),
        (["hot_dog.png", "red_fox.png"], "'source.template={file}'"),
        (["dogs/IMG_1.png", "cats/IMG_2.png"], "'source.template=a photo of a {folder}'"),
    ],
)
def test_one_message_names_what_reads_captions_elsewhere(files: list[str], hint: str, tmp_path: Path) -> None:
    for file in files:
        picture(tmp_path / file) if file.endswith(".png") else write(tmp_path / file, NAMING.get(file, "a,b\n1,2.png\n"))
    hints = hints_of(tmp_path)
    assert hint.replace("{root}", str(tmp_path)) in hints
    assert hints.count("\n") == 0


@pytest.mark.parametrize("place", ["captions", "annotations/captions_val2017.json"])
def test_captions_next_to_the_folder_are_named(place: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/1.png")
    write(tmp_path / place / "1.txt" if place == "captions" else tmp_path / place, '{"1.png": "a cat"}')
    assert hints_of(tmp_path / "images").count("source.captions_from=") == 1
    assert f"source.captions_from={tmp_path / place} " in hints_of(tmp_path / "images")


@pytest.mark.parametrize("path", [["missing"], ["empty.xlsx"]])
def test_captions_from_nothing_are_refused(path: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty.xlsx").touch()
    with pytest.raises(ValueError, match=r"source\.captions_from=.*neither a folder nor a table"):
        Folder(str(tmp_path), captions_from=str(tmp_path / path[0]))


def test_kohyas_folders_give_repeats_and_captions(tmp_path: Path) -> None:
    picture(tmp_path / "img/10_sks dog/a.png")
    captioned(tmp_path / "img/10_sks dog/b.png", "reported")
    picture(tmp_path / "reg/5_dog/c.png")
    picture(tmp_path / "other/d.png")
    assert {key: (item.captions, item.repeats) for key, item in items_of(tmp_path, kohya=True).items()} == {  # type: ignore[arg-type]
        "img/10_sks dog/a.png": (("sks dog",), 10),
        "img/10_sks dog/b.png": (("reported",), 10),
        "reg/5_dog/c.png": (("dog",), 5),
        "other/d.png": ((), 1),
    }
    (tmp_path / "other/d.png").unlink()
    assert [item.repeats for item in Folder(str(tmp_path), kohya=True)] == [2, 2, 1]
    (tmp_path / "img/10_sks dog/a.txt").write_text("x")
    (tmp_path / "reg/5_dog/c.txt").write_text("x")
    assert any("source=kohya" in note for note in notes_of(tmp_path))
    assert [item.repeats for item in Folder(str(tmp_path), captions="template", template="x")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("lines", "captions"), [("each", ("- Mood: calm", "- Style: ink")), ("one", ("- Mood: calm - Style: ink",))]
)
def test_lines_are_captions_or_one(lines: str, captions: tuple[str, ...], tmp_path: Path) -> None:
    captioned(tmp_path / "a.png", "- Mood: calm\n\n- Style: ink\n")
    assert captions_of(tmp_path, lines=lines) == {"a.png": captions}


@pytest.mark.parametrize(
    ("order", "captions"),
    [(["txt", "json"], "new"), (["json", "txt"], "old"), (["cap"], "third"), (["caption", "txt"], "new")],
)
def test_an_order_of_files_next_to_pictures_chooses(order: list[str], captions: str, tmp_path: Path) -> None:
    """As of img2dataset's pictures, captioned again. A JSON gives its further fields in any case."""
    captioned(tmp_path / "a.png", "new")
    write(tmp_path / "a.json", '{"caption": "old", "width": 3}')
    write(tmp_path / "a.cap", "third")
    with pytest.raises(ValueError, match=r"source\.captions=\[txt,json\]"):
        items_of(tmp_path)
    (item,) = items_of(tmp_path, captions=order).values()  # type: ignore[arg-type]
    assert item.captions == (captions,)
    assert item.fields["width"] == "3"


def test_a_json_that_is_not_chosen_does_no_harm(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    write(tmp_path / "a.json", "{")
    assert captions_of(tmp_path, captions=["txt"]) == {"a.png": ("x",)}
    write(tmp_path / "a.json", '["tag", "another"]')
    assert captions_of(tmp_path) == {"a.png": ("x",)}


def test_places_that_differ_by_line_breaks_agree(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png", "a cat\non a sofa")
    write(tmp_path / "a.json", '{"caption": "a cat on  a sofa"}')
    describe(tmp_path, {"file_name": "a.png", "text": "a cat on a sofa"})
    assert captions_of(tmp_path) == {"a.png": ("a cat on a sofa",)}


def test_rows_of_one_picture_are_its_captions_as_in_a_table(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    describe(tmp_path, *({"file_name": "a.png", "text": text} for text in ("one", "two", "one")))
    assert captions_of(tmp_path) == {"a.png": ("one", "two")}
    assert [item.captions for item in Table(str(tmp_path / "metadata.jsonl"))] == [("one", "two")]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("file_name;text\na.png;a, b\n", "utf-8"),
        ('file_name;text;"size, pixels"\na.png;a, b;3\n', "utf-8"),
        ("sep=;\r\nfile_name;text\r\na.png;a, b\r\n", "utf-8-sig"),
        ('sep=,\nfile_name,text\na.png,"a, b"\n', "utf-8"),
        ("file_name\ttext\r\na.png\ta, b\r\n", "utf-16"),
        ("file_name;text\na.png;a, b\n", "utf-16-be"),
    ],
)
@pytest.mark.parametrize("table", [True, False])
def test_tables_of_excel_are_read(text: str, encoding: str, table: bool, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write(tmp_path / "metadata.csv", ("\ufeff" if encoding == "utf-16-be" else "") + text, encoding)
    source = Table(str(tmp_path / "metadata.csv")) if table else Folder(str(tmp_path))
    assert [(item.captions, item.problem) for item in source] == [(("a, b",), None)]


@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_captions_in_utf_16_are_read(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write(tmp_path / name, "é" if name == "a.txt" else '{"text": "é"}', "utf-16")
    assert captions_of(tmp_path) == {"a.png": ("é",)}


@pytest.mark.parametrize(("here", "there"), [(COMPOSED, APART), (APART, COMPOSED)])
@pytest.mark.parametrize("place", ["sidecar", "metadata", "table"])
def test_accents_may_be_written_in_two_ways(here: str, there: str, place: str, tmp_path: Path) -> None:
    picture(tmp_path / f"{here}.png")
    if place == "sidecar":
        write(tmp_path / f"{there}.txt", "x")
    else:
        describe(tmp_path, {"file_name": f"{there}.png", "text": "x"})
    source = Table(str(tmp_path / "metadata.jsonl")) if place == "table" else Folder(str(tmp_path))
    assert [(item.key, item.captions) for item in source] == [(f"{here}.png", ("x",))]


@pytest.mark.parametrize("absolute", [True, False], ids=["absolute", "backslashes"])
@pytest.mark.parametrize("table", [True, False])
def test_paths_in_the_folder_are_accepted_however_they_are_written(absolute: bool, table: bool, tmp_path: Path) -> None:
    path = picture(tmp_path / "in/sub/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    describe(tmp_path / "in", {"file_name": str(path) if absolute else "sub\\a.png", "text": "x"})
    root = tmp_path / ("link" if absolute else "in")
    source = Table(str(tmp_path / "in/metadata.jsonl")) if table else Folder(str(root))
    assert [(item.key, item.captions) for item in source] == [("sub/a.png", ("x",))]


@pytest.mark.parametrize("held_out", ["val", "test", "Valid", "val2017"])
def test_split_folders_hold_out_and_are_no_classes(held_out: str, tmp_path: Path) -> None:
    for key in ("train/cat/a.png", f"{held_out}/dog/b.png", "train/stray.png"):
        picture(tmp_path / key)
    items = items_of(tmp_path, captions="template", template="{top}")
    assert {key: (item.captions, item.held_out) for key, item in items.items()} == {
        "train/cat/a.png": (("cat",), False),
        f"{held_out}/dog/b.png": (("dog",), True),
        "train/stray.png": ((), False),
    }
    assert any("source.splits=false" in note and held_out in note for note in notes_of(tmp_path, template="x"))
    plain = items_of(tmp_path, captions="template", template="{top}", splits=False)  # type: ignore[arg-type]
    assert {item.captions for item in plain.values()} == {("train",), (held_out,)}


@pytest.mark.parametrize("names", [("train", "bus"), ("test", "val"), ("train", "training")])
def test_a_class_may_be_named_as_a_split(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        picture(tmp_path / name / "a.png")
    assert {item.captions[0]: item.held_out for item in items_of(tmp_path, template="{top}").values()} == dict.fromkeys(
        names, False
    )


def test_split_folders_with_metadata_each_and_in_a_folder_of_pictures(tmp_path: Path) -> None:
    for key in ("images/train/a.png", "images/test/b.png"):
        picture(tmp_path / key)
        describe((tmp_path / key).parent, {"file_name": key[-5:], "text": "x"})
    assert {key: item.held_out for key, item in items_of(tmp_path).items()} == {
        "images/test/b.png": True,
        "images/train/a.png": False,
    }


def test_pictures_of_kinds_that_are_not_read_are_counted_unless_a_copy_is_read(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    for name in ("a.psd", "b.PSD", "c.svg", "d.pdf"):
        (tmp_path / name).touch()
    source = Folder(str(tmp_path))
    list(source)
    assert source.unread == {".psd": 1, ".svg": 1}


def test_long_fields_are_not_kept(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    write(tmp_path / "a.json", json.dumps({"imageData": "A" * 2 * 2**20, "label": "cat", "shapes": [[0.5] * MAX_FIELD]}))
    (item,) = items_of(tmp_path).values()
    assert item.fields == {"label": "cat"}
    assert any("imageData (1)" in note and "shapes (1)" in note for note in notes_of(tmp_path))


def make_many(path: Path) -> None:
    write(path, json.dumps({"text": "x", **{f"field {n:03}": n for n in range(500)}}))


@pytest.mark.parametrize(("make", "count"), [(make_many, 100)])
def test_many_fields_are_not_kept(make: Callable[[Path], None], count: int, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    make(tmp_path / "a.json")
    (item,) = items_of(tmp_path).values()
    assert len(item.fields) == count


@pytest.mark.parametrize(
    ("column", "value", "captions"),
    [
        ("tags", ["1girl", "fox ears"], ("1girl, fox ears",)),
        ("general_tags", ["a", "b"], ("a, b",)),
        ("objects", ["cat", "sofa", "red rug", "lamp"], ("cat, sofa, red rug, lamp",)),
        ("objects", ["a cat on a sofa", "a lamp", "a rug", "x"], ("a cat on a sofa", "a lamp", "a rug", "x")),
        ("captions", ["cat", "sofa", "rug", "lamp"], ("cat", "sofa", "rug", "lamp")),
        ("tags", ["one"], ("one",)),
    ],
)
@pytest.mark.parametrize("place", ["sidecar", "table"])
def test_lists_of_tags_are_one_caption(
    column: str, value: list[str], captions: tuple[str, ...], place: str, tmp_path: Path
) -> None:
    picture(tmp_path / "a.png")
    row = json.dumps({"file_name": "a.png", column: value})
    write(tmp_path / ("a.json" if place == "sidecar" else "metadata.jsonl"), row)
    assert captions_of(tmp_path, caption_column=column) == {"a.png": captions}


@pytest.mark.parametrize("lines", ["each", "one"])
def test_parameters_of_a_generation_are_no_captions(lines: str, tmp_path: Path) -> None:
    captioned(tmp_path / "a.png", "a castle\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a\nHires: 2")
    captioned(tmp_path / "b.png", "a fox\nSteps: 20, Sampler: Euler a")
    captioned(tmp_path / "c.png", "Steps: wooden ones, in a garden")
    assert captions_of(tmp_path, lines=lines) == {
        "a.png": ("a castle",),
        "b.png": ("a fox",),
        "c.png": ("Steps: wooden ones, in a garden",),
    }
    assert any("2 text files" in note for note in notes_of(tmp_path))


@pytest.mark.parametrize(("given", "inside"), [(True, True), (True, False), (False, True)])
def test_a_table_with_other_columns_is_read_by_the_settings_that_are_printed(
    given: bool, inside: bool, tmp_path: Path
) -> None:
    root = tmp_path / "in"
    picture(root / "Kühe/Kuh 1.png")
    file = (root if inside else tmp_path) / "Bilder.csv"
    write(file, "sep=;\nDatei;Nr;Bildunterschrift;Notiz\nKühe\\Kuh 1.png;3;eine Kuh;ok\n", "utf-16")
    source = Folder(str(root), captions_from=str(file) if given else None)
    problems = [item.problem for item in source if item.problem]
    message = "\n".join([*problems, *source.warnings])
    assert "{file}" not in message
    assert f"source.captions_from={file}" not in message
    words = shlex.split(message[message.index("source=table") :].partition(" reads it")[0])
    settings = dict(word.removeprefix("source.").split("=", 1) for word in words[1:])
    assert [item.captions for item in Table(**settings)] == [("eine Kuh",)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "file_name,text\nz.png,a cat\n"),
        ("captions.json", '{"annotations": [{"bbox": []}], "images": [{"file_name": "1.png"}, {"file_name": "2.png"}]}'),
        ("info.json", '{"title": "1.png", "description": ""}'),
        ("labels/1.txt", "0 0.5 0.5 0.1 0.1"),
    ],
)
def test_files_without_captions_of_the_pictures_are_not_suggested(name: str, text: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/1.png")
    picture(tmp_path / "images/2.png")
    write(tmp_path / name, text)
    assert "captions_from" not in hints_of(tmp_path)


@pytest.mark.parametrize("given", [True, False])
def test_a_place_in_use_is_not_suggested(given: bool, tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    picture(tmp_path / "2.png")
    write(tmp_path / "captions.json", '{"1.png": "a cat", "2.png": ""}')
    assert "captions_from" not in hints_of(tmp_path, captions_from=str(tmp_path / "captions.json") if given else None)


@pytest.mark.parametrize(
    ("name", "is_caption"),
    [
        ("hot dog", True),
        ("a fox in snow 2", True),
        ("IMG_1234", False),
        ("DSC00012", False),
        ("100APPLE", False),
        ("valid0", False),
        ("output", False),
        ("ComfyUI_00001_", False),
        ("Screenshot 2024-01-02 at 10.11.12", False),
        ("d41d8cd98f00b204e9800998ecf8427e", False),
        ("danbooru_1004_00000000000000000000000000000004", False),
        ("20240102_101112", False),
    ],
)
def test_names_by_cameras_and_programs_are_no_captions(name: str, is_caption: bool) -> None:
    assert is_caption_name(name) == is_caption


def test_names_of_addresses_are_decoded(tmp_path: Path) -> None:
    picture(tmp_path / "a%20red_fox.png")
    assert captions_of(tmp_path, template="{file}") == {"a%20red_fox.png": ("a red fox",)}


@pytest.mark.parametrize("captions", ["sidecar", "metadata"])
def test_a_conflict_in_kohyas_folders_names_settings_that_work_together(captions: str, tmp_path: Path) -> None:
    captioned(tmp_path / "10_sks dog/a.png", "sidecar")
    write(tmp_path / "meta_cap.json", '{"10_sks dog/a.png": {"caption": "metadata"}}')
    for kohya in (True, False):
        with pytest.raises(ValueError, match=f"source=kohya and source.captions={captions}"):
            list(Folder(str(tmp_path), kohya=kohya))
    settings: dict[str, object] = {"kohya": True, "captions": captions}
    assert captions_of(tmp_path, **settings) == {"10_sks dog/a.png": (captions,)}


LEFTOVERS = [
    "set/a-masklabel.png",
    "set/b-condlabel.png",
    "set/mask/a.png",
    "Masks/a.webp",
    "samples/0/1.png",
    "sample/2.jpg",
]


def test_masks_and_samples_of_trainers_are_left_out_and_named(tmp_path: Path) -> None:
    for key in ("set/a.png", "set/b.png", "samples/captioned.png"):
        captioned(tmp_path / key)
    for key in (*LEFTOVERS, "set/mask/other.png", "set/c-masklabel.png"):
        picture(tmp_path / key)
    items = items_of(tmp_path)
    assert {key for key, item in items.items() if item.captions} == {"samples/captioned.png", "set/a.png", "set/b.png"}
    assert {key for key, item in items.items() if item.problem} == {"set/c-masklabel.png", "set/mask/other.png"}
    [note] = [line for line in notes_of(tmp_path) if "masks or samples" in line]
    assert f"{len(LEFTOVERS)} " in note
    assert min(LEFTOVERS) in note


def test_a_folder_of_nothing_but_samples_is_reported(tmp_path: Path) -> None:
    picture(tmp_path / "samples/a.png")
    assert list(items_of(tmp_path)) == ["samples/a.png"]
    assert not any("samples of a trainer" in line for line in notes_of(tmp_path))


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    archive = tmp_path / "in/pictures.zip"
    archive.touch()
    with pytest.raises(ValueError, match=f"source.path={archive} .*unpack"):
        Folder(str(archive))
    with pytest.raises(ValueError, match=r"unpack.*pictures\.zip"):
        items_of(tmp_path / "in")
    captioned(tmp_path / "in/a.png")
    assert any("unpack" in line and "pictures.zip" in line for line in notes_of(tmp_path / "in"))
