"""Datasets of Hugging Face's library, local ones: pictures byte for byte as they are stored, read when asked for."""

import io
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow
import pytest
from datasets.utils import are_progress_bars_disabled
from PIL import Image
from pyarrow import parquet

from ldm_train.data.sources import columns
from ldm_train.data.sources.arrow import iterate_rows
from ldm_train.data.sources.huggingface import HuggingFace
from ldm_train.data.sources.items import Item, PictureBytes
from ldm_train.settings.composition import build
from ldm_train.settings.shipped import shipped_part

Row = dict[str, object]


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` writes stays in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "hf_modules"))


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def rows(count: int = 3, first: int = 0) -> list[Row]:
    return [
        {"image": {"bytes": png(i), "path": None}, "text": f"caption {i}", "size": i} for i in range(first, first + count)
    ]


def dataset(some: list[Row]) -> datasets.Dataset:
    return datasets.Dataset.from_list(some).cast_column("image", datasets.Image())


def write_parquet(path: Path, some: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(some), path)
    return path


def write_arrow(path: Path, some: list[Row]) -> Path:
    table = pyarrow.Table.from_pylist(some)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def write_folder(path: Path, some: list[Row]) -> Path:
    write_parquet(path / "data/train-00000.parquet", some)
    write_parquet(path / "data/test-00000.parquet", rows(1, first=9))
    return path


def write_saved(path: Path, some: list[Row]) -> Path:
    dataset(some).save_to_disk(path)
    return path


def write_saved_splits(path: Path, some: list[Row]) -> Path:
    datasets.DatasetDict({"train": dataset(some), "test": dataset(rows(1, first=9))}).save_to_disk(path)
    return path


def write_image_folder(path: Path, some: list[Row]) -> Path:
    path.mkdir()
    with (path / "metadata.jsonl").open("w") as lines:
        for i, row in enumerate(some):
            (path / f"{i}.png").write_bytes(png(i))
            lines.write(json.dumps({"file_name": f"{i}.png", "text": row["text"], "size": row["size"]}) + "\n")
    return path


WRITERS = {
    "parquet": (write_parquet, "d.parquet"),
    "arrow": (write_arrow, "d.arrow"),
    "folder of parquet": (write_folder, "d"),
    "saved": (write_saved, "d"),
    "saved with splits": (write_saved_splits, "d"),
    "imagefolder": (write_image_folder, "d"),
}


def source_of(path: object, tmp_path: Path, **settings: object) -> HuggingFace:
    return HuggingFace(str(path), cache_dir=str(tmp_path / "cache"), **settings)  # type: ignore[arg-type]


def read(item: Item) -> bytes:
    assert item.picture is not None
    return item.picture.read()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_rows_are_items_and_pictures_their_bytes(kind: str, streaming: bool, tmp_path: Path) -> None:
    write, name = WRITERS[kind]
    source = source_of(write(tmp_path / name, rows()), tmp_path, streaming=streaming)
    items = list(source)
    assert [item.key for item in items] == [f"train/{i:08d}" for i in range(3)]
    assert [item.captions for item in items] == [(f"caption {i}",) for i in range(3)]
    assert [item.fields for item in items] == [{"size": str(i)} for i in range(3)]
    assert [read(item) for item in items] == [png(i) for i in range(3)]
    lasting = not streaming or kind.startswith("saved")
    assert all(item.picture is not None and item.picture.lasting is lasting for item in items)
    assert source.notes == (
        ["source.streaming has no effect on a folder that save_to_disk wrote"] if streaming and lasting else []
    )


def test_the_listing_reads_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "d.parquet", rows())
    asked: list[object] = []
    encoded = columns.read_encoded_picture
    monkeypatch.setattr(columns, "read_encoded_picture", lambda value: asked.append(value) or encoded(value))
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *_, **__: pytest.fail("a picture was decoded"))
    columns_read: list[list[str]] = []
    monkeypatch.setattr(
        "ldm_train.data.sources.huggingface.iterate_rows",
        lambda batch, needed: columns_read.append(batch.schema.names) or iterate_rows(batch, needed),
    )
    items = list(source_of(path, tmp_path))
    assert asked == []
    assert columns_read == [["text", "size"]]
    assert read(items[1]) == png(1)
    assert len(asked) == 1


def test_items_can_be_read_in_another_process(tmp_path: Path) -> None:
    items = list(source_of(write_parquet(tmp_path / "d.parquet", rows()), tmp_path))
    assert [read(item) for item in pickle.loads(pickle.dumps(items))] == [png(i) for i in range(3)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [write_folder, write_saved_splits])
def test_a_further_split_is_held_out(write: object, streaming: bool, tmp_path: Path) -> None:
    assert callable(write)
    items = list(source_of(write(tmp_path / "d", rows()), tmp_path, held_out_split="test", streaming=streaming))
    assert [(item.key, item.held_out) for item in items] == [
        *((f"train/{i:08d}", False) for i in range(3)),
        ("test/00000000", True),
    ]
    assert read(items[-1]) == png(9)


@pytest.mark.parametrize(
    ("some", "settings", "captions", "fields"),
    [
        ({"text": ["one", " two ", ""]}, {}, ("one", "two"), {}),
        ({"title": "x", "text": "y"}, {"caption_column": "title"}, ("x",), {"text": "y"}),
        ({"text": "x", "other": {"a": 1}, "bytes": b"\xff", "tags": ["a", "b"]}, {}, ("x",), {"tags": '["a", "b"]'}),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_captions_and_fields(
    some: Row, settings: Row, captions: tuple[str, ...], fields: dict[str, str], streaming: bool, tmp_path: Path
) -> None:
    path = write_parquet(tmp_path / "d.parquet", [{"image": {"bytes": png(0), "path": None}, **some}])
    (item,) = source_of(path, tmp_path, streaming=streaming, **settings)
    assert (item.captions, item.fields) == (captions, fields)


def test_a_split_column_keeps_from_training(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "d.parquet", [row | {"split": name} for row, name in zip(rows(2), ["val", "train"], strict=True)]
    )
    assert [item.held_out for item in source_of(path, tmp_path)] == [True, False]


def test_a_class_is_captioned_by_its_name(tmp_path: Path) -> None:
    data = dataset([row | {"label": label} for row, label in zip(rows(3), [1, 0, -1], strict=True)])
    data.cast_column("label", datasets.ClassLabel(names=["cat", "dog"])).save_to_disk(tmp_path / "d")
    items = list(source_of(tmp_path / "d", tmp_path, caption_column="label"))
    assert [item.captions for item in items] == [("dog",), ("cat",), ()]
    assert items[2].problem == "no caption: train/00000002 has no text in 'label'"


def test_classes_in_a_list_are_tags_by_their_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "tags": datasets.List(datasets.ClassLabel(names=["red", "green"]))}
    )
    data = {"image": [row["image"] for row in rows(2)], "tags": [[1, 0], [0]]}
    datasets.Dataset.from_dict(data, features=features).save_to_disk(str(tmp_path / "saved"))
    items = list(source_of(tmp_path / "saved", tmp_path, caption_column="tags"))
    assert [item.captions for item in items] == [("green, red",), ("red",)]


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_only_are_read_if_no_captions_are_needed(streaming: bool, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", [{"image": row["image"]} for row in rows()])
    source = source_of(path, tmp_path, streaming=streaming)
    source.needs_captions = False
    items = list(source)
    assert [(item.captions, item.problem) for item in items] == [(("",), None)] * 3
    assert [item.picture.read() for item in items if item.picture] == [png(shade) for shade in range(3)]


def test_keys_are_a_column(tmp_path: Path) -> None:
    names = ["b", 0, None, "b", "/b"]
    path = write_parquet(
        tmp_path / "d.parquet", [row | {"id": None if n is None else str(n)} for row, n in zip(rows(5), names, strict=True)]
    )
    items = list(source_of(path, tmp_path, key_column="id"))
    assert [item.key for item in items] == ["b", "0", "train/00000002", "b#2", "train/00000004"]
    assert items[2].problem == "train/00000002 has no usable name: id is empty or an absolute path"
    assert items[3].problem == "an earlier picture has the same name b"
    assert items[4].problem == "train/00000004 has no usable name: id is empty or an absolute path"
    assert "id" not in items[0].fields


def test_numbers_are_keys(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", rows(2))
    assert [item.key for item in source_of(path, tmp_path, key_column="size")] == ["0", "1"]


def test_a_row_that_is_no_utf8_is_reported_and_spares_the_others(tmp_path: Path) -> None:
    image = pyarrow.array([{"bytes": png(i), "path": None} for i in range(3)])
    text = pyarrow.array([b"one", b"\xff", b"three"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"image": image, "text": text}), tmp_path / "d.parquet")
    first, bad, last = source_of(tmp_path / "d.parquet", tmp_path)
    assert (first.captions, last.captions) == (("one",), ("three",))
    assert (bad.key, bad.problem) == ("train/00000001", "train/00000001: is not UTF-8: byte 0xff")
    assert read(last) == png(2)


def test_files_are_chosen_in_a_config(tmp_path: Path) -> None:
    write_folder(tmp_path / "d", rows(2))
    settings = {"path": "parquet", "cache_dir": str(tmp_path / "cache"), "held_out_split": "test"}
    files = {"train": [f"{tmp_path}/d/data/train-*.parquet"], "test": f"{tmp_path}/d/data/test-*.parquet"}
    part = shipped_part("source", "huggingface").with_values(**settings, data_files=files)
    items = list(build(part, "source"))
    assert [item.held_out for item in items] == [False, False, True]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", ["bytes", "path"])
def test_a_column_of_bytes_or_of_paths_is_one_of_pictures(how: str, streaming: bool, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(5))
    image = png(5) if how == "bytes" else str(tmp_path / "a.png")
    path = write_parquet(tmp_path / "d.parquet", [{"picture": image, "text": "x"}])
    (item,) = source_of(path, tmp_path, image_column="picture", streaming=streaming)
    assert read(item) == png(5)


def test_a_stream_without_known_columns_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(5))
    (tmp_path / "d.jsonl").write_text(json.dumps({"image": str(tmp_path / "a.png"), "text": "x"}) + "\n")
    (item,) = source_of(tmp_path / "d.jsonl", tmp_path, streaming=True)
    assert (read(item), item.captions) == (png(5), ("x",))


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": None}, {"bytes": None, "path": "gone.png"}])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_without_a_picture_cannot_be_read(image: object, streaming: bool, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", [*rows(1), {"image": image, "text": "x", "size": 1}])
    good, bad = source_of(path, tmp_path, streaming=streaming)
    assert read(good) == png(0)
    if streaming:
        assert re.search(r"train/00000001: .*(contains no picture|gone\.png)", str(bad.problem))
        assert bad.captions == ()
    else:
        with pytest.raises(OSError, match=r"contains no picture|gone\.png"):
            read(bad)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        (None, "no caption: train/00000000 has no text in 'text'"),
        (" ", "no caption: train/00000000 has no text in 'text'"),
        ("a\0", "no caption: train/00000000 contains a NUL byte"),
    ],
)
def test_a_row_without_a_caption_is_reported(caption: str | None, words: str, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", [rows(1)[0] | {"text": caption}, *rows(1)])
    bad, good = source_of(path, tmp_path)
    assert words in str(bad.problem)
    assert good.problem is None


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_column": "images"}, "no column 'images' (source.image_column): it has image, text, size; did you mean"),
        (
            {"caption_column": "title"},
            "it has image, text, size; did you mean source.caption_column=text?",
        ),
        ({"key_column": "id"}, "no column 'id' (source.key_column): it has image, text, size; set source.key_column"),
        ({"image_column": "size"}, "source.image_column=size has no pictures but Value('int64')"),
        ({"maps": {"depth": "text"}}, "source.maps.depth=text is also source.caption_column"),
        ({"key_column": "image"}, "source.image_column=image is also source.key_column"),
        ({"maps": {"depth": "size"}}, "source.maps.depth=size has no pictures or arrays of numbers but Value('int64')"),
        ({"split": "nope"}, "split 'nope', cannot be loaded"),
        ({"data_files": "other.parquet"}, "without source.data_files"),
    ],
)
def test_what_is_not_there_is_refused(settings: Row, words: str, streaming: bool, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "d.parquet", rows())
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        list(source_of(path, tmp_path, streaming=streaming, **settings))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("write", [write_saved, write_saved_splits, write_folder])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(write: object, tmp_path: Path) -> None:
    assert callable(write)
    path = write(tmp_path / "d", rows())
    with pytest.raises(ValueError, match=r"split 'nope', cannot be loaded: .*train"):
        list(source_of(path, tmp_path, split="nope"))


def test_training_on_what_is_held_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source\.held_out_split=train is also source\.split"):
        source_of("anything", tmp_path, held_out_split="train")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nobody/nothing", "source.path=nobody/nothing, split 'train', cannot be loaded: "),
        ("empty", "cannot be loaded: "),
        ("d.txt", "a file must end in one of .parquet, .arrow, .jsonl, .json, .csv"),
        ("broken.parquet", "cannot be loaded: "),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(
    path: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "d.txt").touch()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        list(source_of(path, tmp_path))
    assert "\n" not in str(refusal.value)


def test_a_stream_that_breaks_off_ends_in_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = datasets.load_dataset(
        "parquet", data_files=str(write_parquet(tmp_path / "d.parquet", rows())), split="train", streaming=True
    )
    start = datasets.IterableDataset.__iter__

    def breaking(self: datasets.IterableDataset) -> Iterator[Row]:
        yield next(start(self))
        raise ConnectionError("the network\nis gone")

    monkeypatch.setattr(datasets.IterableDataset, "__iter__", breaking)
    monkeypatch.setattr("ldm_train.data.sources.huggingface.load_split", lambda *_: data)
    first, last = source_of("d", tmp_path, streaming=True)
    assert isinstance(first.picture, PictureBytes)
    assert (last.key, last.problem) == ("train/00000001", "train/00000001: the stream broke off here: the network is gone")


def test_progress_bars_are_as_they_were(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = are_progress_bars_disabled()
    list(source_of(write_parquet(tmp_path / "d.parquet", rows()), tmp_path))
    assert are_progress_bars_disabled() == before
    assert capfd.readouterr() == ("", "")
