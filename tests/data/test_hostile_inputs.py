"""Links to devices, bombs and damaged headers in each kind of source: each is named, and spares the others."""

import datetime
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from ldm_train.data.scan.inspection import Decoder, inspect_items
from ldm_train.data.scan.survey import Survey, survey_items
from ldm_train.data.sources import arrow, column_sizes, row_groups
from ldm_train.data.sources.columns import name_class
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.huggingface import HuggingFace
from ldm_train.data.sources.items import Item, PictureFile, TablePicture
from ldm_train.data.sources.table import Table
from ldm_train.data.sources.tar_shards import TarShards
from ldm_train.util.inputs import MAX_LINE, MAX_PICTURE, MAX_TEXT
from tests.data.folders import captioned, describe, picture

GIB = 2**30


def look(items: object) -> Survey:
    """What encoding finds, once `check` has found the same."""
    assert isinstance(items, Folder | Table | TarShards | HuggingFace | list)
    found = survey_items(items, max_pixels=1000)
    looked = {one.item.key: one.problem for one in inspect_items(items, Decoder("white", 1000))}
    assert {key for key, problem in looked.items() if problem is None} == {seen.item.key for seen in found.scanned}
    assert found.problems.keys() <= looked.keys()
    return found


def sparse(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


def link(name: str, target: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(target)


def pipe(name: str) -> Callable[[Path], None]:
    return lambda folder: (os.mkfifo(folder / ".pipe"), (folder / name).symlink_to(".pipe"))[0]


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a device": (link("x.png", "/dev/zero"), "device"),
    "a pipe": (pipe("x.png"), "named pipe"),
    "endless in proc": (link("x.png", "/proc/self/pagemap"), "empty file"),
    "a sparse picture": (lambda folder: sparse(folder / "x.png", 30 * GIB), f"at most {MAX_PICTURE:,}"),
    "zeros": (lambda folder: sparse(folder / "x.png", MAX_PICTURE), "not a picture"),
    "a loop": (link("x.png", "x.png"), "symbolic links"),
    "a device as caption": (link("x.txt", "/dev/zero"), "x.txt cannot be read: it is a device"),
    "a pipe as caption": (pipe("x.txt"), "x.txt cannot be read: it is a named pipe"),
    "a sparse caption": (lambda folder: sparse(folder / "x.txt", 50 * 10**6), f"50,000,000 bytes; at most {MAX_TEXT:,}"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_folder_is_named(name: str, tmp_path: Path) -> None:
    make, reason = FILES[name]
    captioned(tmp_path / "good.png")
    captioned(tmp_path / "x.png")
    target = "x.txt" if "caption" in name else "x.png"
    (tmp_path / target).unlink()
    make(tmp_path)
    found = look(Folder(str(tmp_path)))
    assert [seen.item.key for seen in found.scanned] == ["good.png"]
    assert reason in found.problems["x.png"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
@pytest.mark.parametrize("kind", ["device", "named pipe", "at most"])
def test_metadata_that_is_no_table_is_named(name: str, kind: str, tmp_path: Path) -> None:
    captioned(tmp_path / "good.png")
    picture(tmp_path / "x.png")
    (tmp_path / "sub").mkdir()
    describe(tmp_path, {"file_name": "good.png", "text": "x"})
    make = {"device": link(name, "/dev/zero"), "named pipe": pipe(name), "at most": lambda p: sparse(p / name, 30 * GIB)}
    make[kind](tmp_path / "sub")
    assert f"sub/{name} cannot be read: it" in look(Folder(str(tmp_path))).problems[f"sub/{name}"]
    assert kind in look(Folder(str(tmp_path))).problems[f"sub/{name}"]


@pytest.mark.parametrize("depth", [*range(900, 1000, 5), 100_000])
def test_a_deep_nest_costs_its_row_at_most(depth: int, tmp_path: Path) -> None:
    captioned(tmp_path / "x.png")
    (tmp_path / "x.txt").unlink()
    nest = "[" * depth + "]" * depth
    for row in (f'{{"file_name": "x.png", "text": "x", "more": {nest}}}', f'{{"file_name": {nest}, "text": "x"}}'):
        (tmp_path / "metadata.jsonl").write_text(row)
        assert [item.key for item in Folder(str(tmp_path))] != []


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_rows_of_a_text_table_are_named(suffix: str, tmp_path: Path) -> None:
    rows = [("good.png", "x"), ("a/" * 2500 + ".png", "x"), ("b" * 5000, "x"), ("\0.png", "x"), ("good.png", "z" * MAX_LINE)]
    picture(tmp_path / "good.png")
    picture(tmp_path / "last.png")
    path = tmp_path / f"t.{suffix}"
    rows.append(("last.png", "last"))
    between = "\t" if suffix == "tsv" else ","
    written = [json.dumps({"file_name": n, "text": t}) if suffix == "jsonl" else f"{n}{between}{t}" for n, t in rows]
    path.write_text("\n".join(written if suffix == "jsonl" else [f"file_name{between}text", *written]))
    found = look(Table(str(path)))
    assert [seen.item.key for seen in found.scanned] == ["good.png", "last.png"]
    assert len(found.problems) == 4
    assert any("longer than 16,777,216 bytes" in problem for problem in found.problems.values())


def test_a_caption_that_is_too_long_is_not_cut(tmp_path: Path) -> None:
    describe(
        tmp_path, {"file_name": "a.png", "text": "é" * (MAX_TEXT // 2)}, {"file_name": "b.png", "text": "x" * (MAX_TEXT + 1)}
    )
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    found = look(Folder(str(tmp_path)))
    assert [seen.item.key for seen in found.scanned] == ["a.png"]
    assert f"{MAX_TEXT + 1:,} bytes; at most {MAX_TEXT:,}" in found.problems["b.png"]


def test_numbers_that_no_float_holds_are_names(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "t.jsonl").write_text(
        "".join(
            f'{{"file_name": "a.png", "text": "{n}", "id": {n}}}\n' for n in (f"1{'0' * 400}", "1e999", "NaN", "1" * 9000)
        )
    )
    found = look(Table(str(tmp_path / "t.jsonl"), key_column="id"))
    assert [seen.item.key for seen in found.scanned] == [f"1{'0' * 400}", "inf", "nan"]
    assert set(found.problems) == {"t.jsonl:4"}


# Parquet

BEYOND = pyarrow.array([2**30, 1], pyarrow.int32()).cast(pyarrow.date32())


def table(folder: Path, **columns: object) -> Table:
    picture(folder / "a.png")
    picture(folder / "b.png")
    content = pyarrow.table({"file_name": ["a.png", "b.png"], "text": ["x", "y"]} | columns)
    parquet.write_table(content, folder / "t.parquet", compression="zstd", dictionary_pagesize_limit=GIB)
    return Table(str(folder / "t.parquet"))


def test_a_date_out_of_range_matters_only_where_it_is_needed(tmp_path: Path) -> None:
    found = look(table(tmp_path, date=BEYOND))
    assert [seen.item.fields for seen in found.scanned] == [{}, {"date": str(datetime.date(1970, 1, 2))}]
    found = look(table(tmp_path, split=BEYOND))
    assert [seen.item.key for seen in found.scanned] == ["b.png"]
    assert "t.parquet row 1 cannot be read" in found.problems["t.parquet:1"]


def test_a_date_out_of_range_in_a_dataset(tmp_path: Path) -> None:
    columns = {"image": [str(picture(tmp_path / name)) for name in ("a.png", "b.png")], "text": ["x", "y"], "date": BEYOND}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert len(look(HuggingFace(str(tmp_path / "t.parquet"), cache_dir=str(tmp_path / "cache"))).scanned) == 2


def test_paths_in_a_dataset_lead_to_regular_files_only(tmp_path: Path) -> None:
    paths = [str(picture(tmp_path / "a.png")), "/dev/zero", "a" * 5000, "\0", str(tmp_path)]
    datasets.Dataset.from_dict({"image": paths, "text": ["x"] * 5}).save_to_disk(tmp_path / "saved")
    found = look(HuggingFace(str(tmp_path / "saved")))
    assert [seen.item.key for seen in found.scanned] == ["train/00000000"]
    assert "device" in found.problems["train/00000001"]


@pytest.mark.parametrize("label", [7, -1])
def test_a_label_without_a_name_stays_a_number(label: int) -> None:
    assert name_class(datasets.ClassLabel(names=["cat"]), label) == label


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MAX_BATCH", 10_000)
    monkeypatch.setattr(arrow, "MAX_LINE", 5_000)
    monkeypatch.setattr(column_sizes, "SUSPICIOUS", (100_000, 100))


@pytest.mark.parametrize("name", ["text", "more"])
def test_a_column_that_unpacks_to_far_more_is_not_read(name: str, tmp_path: Path, small_limits: None) -> None:
    found = look(table(tmp_path, **{name: ["x" * 10**6] * 2}))
    assert len(found.scanned) == (2 if name == "more" else 0)
    assert all("'text' unpacks to 1,0" in problem for problem in found.problems.values())


@pytest.mark.parametrize("nested", [False, True])
def test_a_value_that_every_row_shares_is_not_unpacked_at_once(nested: bool, tmp_path: Path, small_limits: None) -> None:
    def batch(length: int) -> pyarrow.RecordBatch:
        texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 800, pyarrow.int32()), ["x" * length])
        if nested:
            texts = pyarrow.ListArray.from_arrays(pyarrow.array(range(801), pyarrow.int32()), texts)
        return pyarrow.RecordBatch.from_arrays([texts], ["text"])

    rows = list(arrow.iterate_rows(batch(4000), {"text"}))
    assert rows == [{"text": ["x" * 4000] if nested else "x" * 4000}] * 800
    assert arrow.count_unpacked_bytes(batch(10**7).column(0)) > 8 * 10**9
    refused = list(arrow.iterate_rows(batch(10**7), {"text"}))  # 8 GB
    assert len(refused) == 800
    assert all("at most 5,000" in str(row) for row in refused)


def damage(path: Path, column: int, group: int = 0) -> None:
    """Overwrite a column's pages in a row group."""
    chunk = parquet.read_metadata(path).row_group(group).column(column)
    with path.open("r+b") as file:
        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        file.write(b"\xff" * chunk.total_compressed_size)


def test_a_damaged_column_matters_only_where_it_is_needed(tmp_path: Path) -> None:
    source = table(tmp_path, more=["x" * 100, "y" * 100])
    damage(tmp_path / "t.parquet", column=2)
    assert [(seen.item.key, seen.item.fields) for seen in look(source).scanned] == [("a.png", {}), ("b.png", {})]
    damage(tmp_path / "t.parquet", column=1)
    found = look(source)
    assert not found.scanned
    assert "row group 0" in found.problems["t.parquet:1"]


def test_a_damaged_row_group_spares_the_next(tmp_path: Path) -> None:
    source = table(tmp_path)
    parquet.write_table(parquet.read_table(tmp_path / "t.parquet"), tmp_path / "t.parquet", row_group_size=1)
    damage(tmp_path / "t.parquet", column=1)
    found = look(source)
    assert [seen.item.key for seen in found.scanned] == ["b.png"]
    assert "row group 0" in found.problems["t.parquet:1"]


def test_groups_that_unpack_to_far_more_together_are_not_read(tmp_path: Path, small_limits: None) -> None:
    source = table(tmp_path)
    content = pyarrow.table({"file_name": ["a.png"] * 10, "text": ["x" * 60_000] * 10})
    settings = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    parquet.write_table(content, tmp_path / "t.parquet", row_group_size=1, **settings)
    found = look(source)
    assert not found.scanned
    assert len(found.problems) == 10
    assert all("'text' unpacks to 60" in problem for problem in found.problems.values())


def test_a_column_of_empty_lists_is_not_read(tmp_path: Path, small_limits: None) -> None:
    nulls = pyarrow.ListArray.from_arrays(pyarrow.array([0, 200_000, 200_000], pyarrow.int32()), pyarrow.nulls(200_000))
    assert [seen.item.fields for seen in look(table(tmp_path, more=nulls)).scanned] == [{}, {}]


def test_a_column_ends_where_its_rows_come_to_too_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "MAX_TABLE", 2_500)
    monkeypatch.setattr(row_groups, "ROWS_PER_BATCH", 1)
    found = look(table(tmp_path, more=["x" * 1_500] * 2))
    assert [len(seen.item.fields) for seen in found.scanned] == [1, 0]
    found = look(table(tmp_path, text=["x" * 1_500] * 2))
    assert [seen.item.key for seen in found.scanned] == ["a.png"]
    assert "'text' unpacks to more than 2,500 bytes" in found.problems["t.parquet"]


def test_a_table_has_no_more_rows_than_its_bytes_can_describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "FEW_ROWS", 1000)
    nothing = pyarrow.nulls(10_000, pyarrow.string())
    parquet.write_table(pyarrow.table({"file_name": nothing, "text": nothing}), tmp_path / "t.parquet")
    assert "10,000 rows in" in look(Table(str(tmp_path / "t.parquet"))).problems["t.parquet"]


def test_a_footer_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "t.parquet").open("wb") as file:
        file.truncate(3 * GIB)
        file.seek(0, os.SEEK_END)
        file.write((2 * GIB).to_bytes(4, "little") + b"PAR1")
    found = look(Table(str(tmp_path / "t.parquet")))
    assert "its footer has 2,147,483,648 bytes" in found.problems["t.parquet"]


def test_rows_that_cannot_be_used_are_named_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_train.data.sources.rows.MAX_NAMED", 3)
    picture(tmp_path / "good.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "x.png\n" * 10 + "good.png,x\n")
    for source in (Table(str(tmp_path / "metadata.csv")), Folder(str(tmp_path))):
        found = look(source)
        assert [seen.item.key for seen in found.scanned] == ["good.png"]
        assert len(found.problems) == 4
        assert "7 further rows" in found.problems["metadata.csv:further"]


# Tars


def header(name: str, size: int | bytes, kind: bytes = b"0") -> bytes:
    """A header with this size: an octal number, one of 11 bytes, or what is given."""
    member = tarfile.TarInfo(name)
    member.type = kind
    content = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    octal = isinstance(size, int) and size < 8**11
    raw = size if isinstance(size, bytes) else b"%011o\0" % size if octal else b"\x80" + size.to_bytes(11, "big")
    content[124:136] = raw
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    return bytes(content)


def member(name: str, content: bytes) -> bytes:
    return header(name, len(content)) + content + bytes(-len(content) % 512)


PAX = b"14 size=-5000\n"
NEGATIVE = member("pax", PAX).replace(header("pax", 14), header("pax", 14, b"x"))
TARS = {
    "a long name": ([header("././@LongLink", 20 * GIB, b"L")], "21,474,836,992|21,474,836,993|21,474,837"),
    "long attributes": ([header("pax", 7 * GIB, b"x")], "at most 1,048,576"),
    "a chain of attributes": ([header("pax", 0, b"x")] * 3000, "s.tar"),
    "a negative size": ([header("1.png", b"\xff" * 11 + b"\0")], "bytes"),
    "negative in attributes": (
        [member("pax", PAX).replace(header("pax", 14), header("pax", 14, b"x")), header("1.png", 9)],
        "",
    ),
    "a huge size": ([header("1.png", 2**80)], "cut in the middle of 1.png"),
    "a large picture": ([member("1.txt", b"x"), header("1.png", 20 * GIB)], f"at most {MAX_PICTURE:,}"),
    "a large caption": ([member("1.png", b"x"), header("1.txt", 20 * GIB)], f"at most {MAX_TEXT:,}"),
    "a hard link": ([header("1.png", 0, b"1"), member("1.txt", b"x")], "1.png as a link"),
    "a symbolic link": ([header("1.png", 0, b"2"), member("1.txt", b"x")], "1.png as a link"),
    "a device": ([header("1.png", 0, b"3"), member("1.txt", b"x")], "1.png as a link or a device"),
}


@pytest.mark.parametrize("name", TARS)
def test_a_member_of_a_tar_is_named(name: str, tmp_path: Path) -> None:
    parts, reason = TARS[name]
    picture(tmp_path / "a.png")
    good = [member("0.png", (tmp_path / "a.png").read_bytes()), member("0.txt", b"x")]
    (tmp_path / "s.tar").write_bytes(b"".join([*good, *parts]))
    os.truncate(tmp_path / "s.tar", 25 * GIB)
    found = look(TarShards(str(tmp_path / "s.tar")))
    assert [seen.item.key for seen in found.scanned] == ["s/0"]
    assert found.problems
    assert any(part in problem for problem in found.problems.values() for part in reason.split("|"))


# Reasons that no picture has by itself


@pytest.mark.parametrize(
    "error", [MemoryError(), OverflowError("too large"), RecursionError("deep"), OSError(5, "I/O error")]
)
def test_whatever_a_picture_raises_is_its_own_problem(error: Exception, tmp_path: Path) -> None:
    def fail(row: int) -> bytes:
        raise error

    good = Item("good", PictureFile(picture(tmp_path / "a.png")), ("x",), "good")
    found = look([Item("bad", TablePicture(fail, 0), ("x",), "bad"), good])
    assert [seen.item.key for seen in found.scanned] == ["good"]
    assert set(found.problems) == {"bad"}
