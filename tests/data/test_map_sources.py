"""Sources bring maps by name: from paths, columns and members; a map that cannot be used is a problem of its picture."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from ldm_train.data.pictures.map_values import MapSpec
from ldm_train.data.pictures.maps import decode_map
from ldm_train.data.scan.inspection import Decoder, inspect_items, survey_from_inspection
from ldm_train.data.scan.survey import ScanMemory, Survey, survey_items
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.huggingface import HuggingFace
from ldm_train.data.sources.items import Item, PictureBytes, PictureFile
from ldm_train.data.sources.source import Source
from ldm_train.data.sources.table import Table
from ldm_train.data.sources.tar_shards import TarShards
from tests.data.map_files import deep_png, npy, png
from tests.data.test_source_tar_shards import shard

DEPTH = MapSpec("depth")


def depth(number: int, size: tuple[int, int] = (8, 12)) -> np.ndarray:
    return np.full((*size, 1), 1000 * number + 7, dtype=np.uint16)


def picture(path: Path, number: int, size: tuple[int, int] = (8, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (number, 0, 0)).save(path, format="PNG")
    return path


def captioned(path: Path, number: int) -> None:
    picture(path, number).with_suffix(".txt").write_text(f"caption {number}")


def assert_depths(found: Survey, numbers: dict[str, int]) -> None:
    """Each picture has the depth with its number."""
    assert found.problems == {}
    assert {seen.item.key for seen in found.scanned} == numbers.keys()
    for seen in found.scanned:
        values = decode_map(seen.item.maps["depth"].read(), DEPTH)
        number = numbers[seen.item.key]
        assert ((values.double() + 1) * 32767.5).round().unique().tolist() == [1000 * number + 7]
        assert set(seen.maps) == {"depth"}


@pytest.mark.parametrize(
    "template",
    [
        "depth/{folder}/{stem}.png",
        "{folder}/{stem}.depth.png",
        "./depth/{folder}/{name}",
        "../depth/{folder}-{stem}.npy",
    ],
)
def test_a_folder_has_maps_at_paths_and_lists_none_of_them_as_a_picture(template: str, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    numbers = {"a.png": 1, "sub/a.png": 2, "sub/b.png": 3}
    for key, number in numbers.items():
        captioned(root / key, number)
        folder, name = (Path(key).parent.as_posix(), Path(key).name)
        path = root / template.format(folder=folder, stem=Path(key).stem, name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(npy(depth(number)) if path.suffix == ".npy" else deep_png(depth(number)))
    source = Folder(str(root), maps={"depth": template})
    assert_depths(survey_items(source, max_pixels=1000, maps=["depth"]), numbers)
    assert not any("not read as pictures" in note for note in source.notes)


def test_the_number_in_a_pictures_name_is_that_of_its_map(tmp_path: Path) -> None:
    numbers = {"img2_0001.png": 1, "img2_0002.png": 2}
    for key, number in numbers.items():
        captioned(tmp_path / key, number)
        (tmp_path / f"depth_{key[5:]}").write_bytes(deep_png(depth(number)))
    source = Folder(str(tmp_path), maps={"depth": "depth_{number}.png"})
    assert_depths(survey_items(source, max_pixels=1000, maps=["depth"]), numbers)


def test_arrays_next_to_pictures_are_not_reported_as_unread(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png", 1)
    (tmp_path / "a.npy").write_bytes(npy(depth(1)))
    (tmp_path / "b.npy").write_bytes(npy(depth(2)))
    source = Folder(str(tmp_path), maps={"depth": "{folder}/{stem}.npy"})
    assert [item.key for item in source] == ["a.png"]
    assert [note for note in source.notes if ".npy" in note and "not read" in note] == ["not read as pictures: 1 .npy"]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("depth/{file}.png", "{file}"),
        ("depth/all.png", "{stem}"),
        ("depth/{stem", "brace"),
        ("depth/{stem!r}.png", "{stem!r}"),
        ("{folder}/{name}", "map of a picture"),
    ],
)
def test_a_template_that_finds_no_map_of_its_own_is_refused(template: str, says: str, tmp_path: Path) -> None:
    captioned(tmp_path / "a.png", 1)
    with pytest.raises(ValueError, match=r"source\.maps.*depth") as refused:
        list(Folder(str(tmp_path), maps={"depth": template}))
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["de.pth", "", "1st", "a b", "tiefe\u00e4"])
def test_a_name_that_cannot_be_part_of_a_parameters_name_is_refused(name: str, tmp_path: Path) -> None:
    captioned(tmp_path / "a.png", 1)
    with pytest.raises(ValueError, match=r"source\.maps"):
        Folder(str(tmp_path), maps={name: "{stem}.png"})


def test_a_table_has_columns_of_their_paths(tmp_path: Path) -> None:
    rows = []
    for number in range(3):
        picture(tmp_path / f"{number}.png", number)
        (tmp_path / f"d{number}.png").write_bytes(deep_png(depth(number)))
        rows.append({"file_name": f"{number}.png", "text": f"caption {number}", "far": f"d{number}.png", "size": "x"})
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Table(str(tmp_path / "table.jsonl"), maps={"depth": "far"})
    assert_depths(survey_items(source, max_pixels=1000, maps=["depth"]), {f"{n}.png": n for n in range(3)})
    assert [item.fields for item in source] == [{"size": "x"}] * 3
    with pytest.raises(ValueError, match=r"'near' \(source\.maps\.depth\)"):
        list(Table(str(tmp_path / "table.jsonl"), maps={"depth": "near"}))


def test_two_rows_of_a_picture_with_other_maps_are_not_joined(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1)
    rows = [{"file_name": "a.png", "text": "one", "far": "1.png"}, {"file_name": "a.png", "text": "two", "far": "2.png"}]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = list(Table(str(tmp_path / "table.jsonl"), maps={"depth": "far"}))
    assert [(item.captions, item.problem is None) for item in items] == [(("one",), True), ((), False)]


def test_a_tar_has_members_with_their_suffix(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {}
    for number in range(3):
        members |= {
            f"{number}.jpg": picture(tmp_path / "x", number).read_bytes(),
            f"{number}.depth.png": deep_png(depth(number)),
            f"{number}.txt": f"caption {number}",
        }
    members["3.jpg"], members["3.txt"] = members["0.jpg"], "without"
    path = shard(tmp_path / "a.tar", members)  # type: ignore[arg-type]
    source = TarShards(str(path), maps={"depth": ".Depth.PNG"})
    found = survey_items(source, max_pixels=1000, maps=["depth"])
    assert list(found.problems) == ["a/3"]
    assert "no map depth" in found.problems.pop("a/3")
    assert_depths(found, {f"a/{number}": number for number in range(3)})
    assert not any("not read" in note for note in source.notes)


def test_a_suffix_of_pictures_may_be_that_of_a_map(tmp_path: Path) -> None:
    members = {
        "1.jpg": picture(tmp_path / "x", 1).read_bytes(),
        "1.png": deep_png(depth(1)),
        "1.txt": "caption",
    }
    found = survey_items(
        TarShards(str(shard(tmp_path / "a.tar", members)), maps={"depth": "png"}),  # type: ignore[arg-type]
        max_pixels=1000,
        maps=["depth"],
    )
    assert_depths(found, {"a/1": 1})


@pytest.mark.parametrize("numbers", ["bool", "uint8", "float32"])
@pytest.mark.parametrize(
    ("fault", "says"),
    [([[1, 1], [None, 1]], "no number at [1, 0]"), ([[1, 1], [1]], "different lengths"), (None, "no array")],
)
def test_an_array_that_lacks_a_number_cannot_be_read(fault: object, says: str, numbers: str, tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "far": datasets.List(datasets.List(datasets.Value(numbers))),
        }
    )
    one = {"bytes": picture(tmp_path / "x", 1).read_bytes(), "path": None}
    rows = {"image": [one, one], "text": ["a", "b"], "far": [[[1, 0], [0, 1]], fault]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    good, bad = HuggingFace(str(tmp_path / "saved"), maps={"depth": "far"})
    assert np.load(io.BytesIO(good.maps["depth"].read())).dtype == numbers
    with pytest.raises(OSError, match=re.escape(says)):
        bad.maps["depth"].read()


def test_texts_in_lists_are_no_map(tmp_path: Path) -> None:
    one = {"bytes": picture(tmp_path / "x", 1).read_bytes(), "path": None}
    rows = {"image": [one], "text": ["a"], "far": [[["0.5"]]]}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match=r"source\.maps\.depth=far has no pictures or arrays of numbers"):
        list(HuggingFace(str(tmp_path / "saved"), maps={"depth": "far"}))


@pytest.mark.parametrize("kind", ["picture", "bytes", "path", "array", "lists"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_has_columns_of_pictures_or_arrays(
    kind: str, streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "hf_modules"))
    columns: dict[str, list[object]] = {"image": [], "text": [], "far": []}
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(deep_png(depth(number)))
        columns["image"].append({"bytes": picture(tmp_path / "x", number).read_bytes(), "path": None})
        columns["text"].append(f"caption {number}")
        encoded = {"bytes": deep_png(depth(number)), "path": None}
        arrays = depth(number)[..., 0].tolist()
        value = {"picture": encoded, "bytes": encoded["bytes"], "path": str(tmp_path / f"{number}.png")}
        columns["far"].append(value.get(kind, arrays))
    types = {
        "picture": datasets.Image(),
        "bytes": datasets.Value("binary"),
        "path": datasets.Value("string"),
        "array": datasets.Array2D((8, 12), "uint16"),
        "lists": datasets.List(datasets.List(datasets.Value("uint16"))),
    }
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string"), "far": types[kind]})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "data.parquet"))
    source = HuggingFace(
        str(tmp_path / "data.parquet"), cache_dir=str(tmp_path / "hf"), streaming=streaming, maps={"depth": "far"}
    )
    (tmp_path / "spool").mkdir()
    found = survey_items(source, max_pixels=1000, maps=["depth"], spool=tmp_path / "spool")
    assert_depths(found, {f"train/{number:08d}": number for number in range(3)})
    assert all(seen.item.fields == {} for seen in found.scanned)
    with pytest.raises(ValueError, match=r"source\.maps\.depth=text|source\.maps\.depth\)"):
        list(HuggingFace(str(tmp_path / "data.parquet"), cache_dir=str(tmp_path / "hf"), maps={"depth": "absent"}))


class Own(Source):
    """Yields items as they are."""

    def __init__(self, *items: Item) -> None:
        super().__init__()
        self.found = items

    def items(self) -> Iterator[Item]:
        yield from self.found


@pytest.mark.parametrize("maps", [["a.png"], {"depth": Path("a.png")}, {"depth": None}])
def test_maps_of_own_code_are_looked_at(maps: object) -> None:
    with pytest.raises(ValueError, match=r"Own.items\(\) failed at item 1: maps of 'a' must be"):
        list(Own(Item("a", PictureFile(Path("a.png")), ("x",), "here", maps=maps)))  # type: ignore[arg-type]


FAULTS = {
    "missing": (None, "no map depth"),
    "unreadable": (PictureFile(Path("/nowhere/b/../a.png")), "map depth is missing: there is no /nowhere/a.png"),
    "a folder": (PictureFile(Path("/")), "map depth cannot be read"),
    "no picture": (PictureBytes(b"hello"), "map depth does not decode"),
    "aspect": (PictureBytes(deep_png(depth(1, (12, 8)))), "map depth has 8x12 pixels"),
    "range": (PictureBytes(npy(np.zeros((8, 12), dtype=np.int32))), "int32"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_map_that_cannot_be_used_is_a_problem_of_its_picture_in_encode_and_check(fault: str, tmp_path: Path) -> None:
    file, says = FAULTS[fault]
    content = PictureFile(picture(tmp_path / "a.png", 1))
    items = [
        Item("a", content, ("x",), "", maps={} if file is None else {"depth": file}),
        Item("b", content, ("x",), "", maps={"depth": PictureBytes(deep_png(depth(1, (4, 6))))}),
    ]
    inspected = survey_from_inspection(inspect_items(items, Decoder("white", 1000, (DEPTH,))))
    for found in (survey_items(items, max_pixels=1000, maps=["depth"]), inspected):
        assert [seen.item.key for seen in found.scanned] == ["b"]
        assert says in found.problems["a"]
    unasked = survey_items(items, max_pixels=1000)
    assert [(seen.item.key, seen.maps) for seen in unasked.scanned] == [("a", {}), ("b", {})], (
        "what is not needed is not read"
    )
    assert all(seen.content == seen.digest for seen in unasked.scanned)


def test_pictures_with_other_maps_have_other_contents_and_the_same_digest(tmp_path: Path) -> None:
    content = PictureFile(picture(tmp_path / "a.png", 1))
    maps = [{"depth": PictureBytes(deep_png(depth(n))), "unused": PictureBytes(bytes([i]))} for i, n in enumerate((1, 2, 1))]
    items = [Item(str(number), content, ("x",), "", maps=one) for number, one in enumerate(maps)]
    one, other, same = survey_items(items, max_pixels=1000, maps=["depth"]).scanned
    assert one.digest == other.digest
    assert one.content == same.content != other.content


def test_maps_are_remembered_by_time_and_size_and_maps_of_streams_are_spooled(tmp_path: Path) -> None:
    class Unread(PictureFile):
        def read(self) -> bytes:
            raise AssertionError("it was read")

    picture(tmp_path / "a.png", 1)
    (tmp_path / "d.png").write_bytes(deep_png(depth(1)))

    def items(kind: type[PictureFile]) -> list[Item]:
        return [Item("a", kind(tmp_path / "a.png"), ("x",), "", maps={"depth": kind(tmp_path / "d.png")})]

    first = survey_items(items(PictureFile), max_pixels=1000, maps=["depth"], memory=ScanMemory(tmp_path / "memory.json"))
    again = survey_items(items(Unread), max_pixels=1000, maps=["depth"], memory=ScanMemory(tmp_path / "memory.json"))
    assert [seen.content for seen in again.scanned] == [seen.content for seen in first.scanned]
    spool = tmp_path / "spool"
    spool.mkdir()
    stream = [
        Item("a", PictureBytes((tmp_path / "a.png").read_bytes()), ("x",), "", maps={"depth": PictureBytes(png(depth(1)))})
    ]
    (seen,) = survey_items(stream, max_pixels=1000, maps=["depth"], spool=spool).scanned
    assert sorted(path.name for path in spool.iterdir()) == sorted([seen.digest, seen.maps["depth"]])
    assert seen.item.maps["depth"].read() == png(depth(1))


@pytest.mark.slow
def test_maps_are_decoded_in_other_processes_alike(tmp_path: Path) -> None:
    content = PictureFile(picture(tmp_path / "a.png", 1))
    items = [Item(str(n), content, ("x",), "", maps={"depth": PictureBytes(deep_png(depth(n % 9)))}) for n in range(20)]
    decoder = Decoder("white", 1000, (DEPTH,))
    assert list(inspect_items(items, decoder, workers=2)) == list(inspect_items(items, decoder, workers=1))
