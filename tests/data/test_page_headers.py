"""The sizes of a parquet file's pages are read from the pages: footers that say otherwise change nothing."""

import os
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ldm_train.data.scan.survey import survey_items
from ldm_train.data.sources import column_sizes, dataset_splits, page_headers, row_groups
from ldm_train.data.sources.dataset_splits import check_data_file
from ldm_train.data.sources.huggingface import HuggingFace
from ldm_train.data.sources.page_headers import CompactReader, read_page_sizes
from ldm_train.data.sources.table import Table
from ldm_train.util.inputs import MAX_TABLE
from tests.data.folders import picture
from tests.pairwise import parametrize_pairs

ROWS = 3000
MANY = pyarrow.table(
    {
        "text": [f"caption {number % 700} " + "x" * (number % 90) for number in range(ROWS)],
        "texts": [[f"a {number}", "b"] if number % 3 else None for number in range(ROWS)],
        "number": list(range(ROWS)),
        "flag": [number % 2 == 0 for number in range(ROWS)],
        "nested": [{"a": number / 3, "b": ["x"] * (number % 4)} for number in range(ROWS)],
    }
)
COMPRESSIONS = {name: name for name in ("none", "snappy", "zstd", "gzip")}
VERSIONS = {name: name for name in ("1.0", "2.0")}
DICTIONARIES = {"dictionary": True, "plain": False}
STATISTICS = {"statistics": True, "nothing": False}
PAGES = {"small": 200, "large": 2**20}
GROUPS = {"groups": 1000, "group": ROWS}


@parametrize_pairs(
    compression=COMPRESSIONS,
    data_page_version=VERSIONS,
    use_dictionary=DICTIONARIES,
    write_statistics=STATISTICS,
    data_page_size=PAGES,
    row_group_size=GROUPS,
)
def test_pages_have_the_sizes_of_an_honest_footer(
    compression: str,
    data_page_version: str,
    use_dictionary: bool,
    write_statistics: bool,
    data_page_size: int,
    row_group_size: int,
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(
        MANY,
        path,
        compression=compression,
        data_page_version=data_page_version,
        use_dictionary=use_dictionary,
        write_statistics=write_statistics,
        data_page_size=data_page_size,
        row_group_size=row_group_size,
    )
    metadata = parquet.read_metadata(path)
    with path.open("rb") as file:
        for group in range(metadata.num_row_groups):
            for place in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(place)
                sizes = read_page_sizes(file, chunk)
                assert (sizes.packed, sizes.unpacked) == (chunk.total_compressed_size, chunk.total_uncompressed_size)
                assert sizes.values == chunk.num_values
                assert sizes.repeating == 0


def write_bomb(folder: Path, *, size: int, **settings: object) -> Path:
    """Write a table with two texts of so many bytes, which are packed."""
    picture(folder / "a.png")
    content = pyarrow.table({"file_name": ["a.png", "a.png"], "text": ["x" * size, "y" * size]})
    usual: dict[str, object] = {"use_dictionary": False, "write_statistics": False, "compression": "zstd"}
    parquet.write_table(content, folder / "t.parquet", **usual | settings)
    return folder / "t.parquet"


def encode_number(value: int, length: int) -> bytes:
    """Return a number of Thrift's compact protocol in this many bytes, which may be more than it needs."""
    parts = [(2 * value >> 7 * place) & 127 for place in range(length)]
    return bytes(part | 128 for part in parts[:-1]) + bytes(parts[-1:])


def replace_in_footer(path: Path, column: int, **values: int) -> None:
    """Replace sizes that the footer has of a column by others."""
    chunk, content = parquet.read_metadata(path).row_group(0).column(column), path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:]
    for name, value in values.items():
        true = getattr(chunk, name)
        length = -(-(2 * true).bit_length() // 7)
        old = encode_number(true, length)
        assert footer.count(old) >= 1
        footer = footer.replace(old, encode_number(value, length))
    path.write_bytes(content[:start] + footer)


def read_problem(path: Path) -> str:
    """Return why no row of a table can be used."""
    survey = survey_items(Table(str(path)), max_pixels=1000)
    assert not survey.scanned
    (problem,) = survey.problems.values()
    return problem


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_sizes, "SUSPICIOUS", (100_000, 100))


def test_a_footer_that_says_less_does_not_help(tmp_path: Path, small_limits: None) -> None:
    path = write_bomb(tmp_path, size=10**6)
    replace_in_footer(path, 1, total_uncompressed_size=1000)
    assert parquet.read_metadata(path).row_group(0).column(1).total_uncompressed_size == 1000
    assert "'text' unpacks to 2,000," in read_problem(path)


def test_a_footer_that_says_more_is_packed_does_not_help(tmp_path: Path, small_limits: None) -> None:
    path = write_bomb(tmp_path, size=10**6)
    replace_in_footer(path, 1, total_compressed_size=2**13 - 1)
    assert "'text' cannot be read: " in read_problem(path)


def test_a_dataset_is_held_to_the_same_limits(tmp_path: Path, small_limits: None) -> None:
    path = write_bomb(tmp_path, size=10**6)
    replace_in_footer(path, 1, total_uncompressed_size=1000)
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (path.rename(folder / "t.parquet"), folder):
        source = HuggingFace(str(place), image_column="file_name", cache_dir=str(tmp_path / "cache"))
        with pytest.raises(ValueError, match=r"t\.parquet cannot be read: row group 0: its column 'text' unpacks to 2,000,"):
            list(source)


@pytest.mark.parametrize(("suffix", "line"), [("jsonl", '{"image": "a.png", "text": "x"}\n'), ("csv", "image,text\n")])
def test_a_file_of_data_has_no_endless_line(suffix: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_splits, "MAX_SKIPPED", 2**25)
    path = tmp_path / f"t.{suffix}"
    path.write_text(line)
    check_data_file(path)
    os.truncate(path, 2**25 + 1)  # zeros up to there
    with pytest.raises(OSError, match=r"a line of more than 16,777,216 bytes"):
        check_data_file(path)
    os.truncate(path, MAX_TABLE + 1)
    with pytest.raises(OSError, match="at most"):
        check_data_file(path)


def test_a_damaged_header_of_a_later_page_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rows = {"file_name": [f"{number}.png" for number in range(ROWS)], "text": ["x"] * ROWS}
    parquet.write_table(pyarrow.table(rows), path, data_page_size=100, write_batch_size=10, use_dictionary=False)
    chunk = parquet.read_metadata(path).row_group(0).column(0)
    with path.open("r+b") as file:
        file.seek(chunk.data_page_offset + chunk.total_compressed_size // 2)
        file.write(b"\xff" * 1000)
    assert "row group 0: its column 'file_name' cannot be read" in read_problem(path)


def test_texts_in_which_values_repeat_others_are_read(tmp_path: Path) -> None:
    path = write_bomb(tmp_path, size=100, column_encoding={"text": "DELTA_BYTE_ARRAY"})
    chunk = parquet.read_metadata(path).row_group(0).column(1)
    with path.open("rb") as file:
        assert read_page_sizes(file, chunk).repeating > 100
    (seen,) = survey_items(Table(str(path)), max_pixels=1000).scanned
    assert seen.item.captions == ("x" * 100, "y" * 100)


def test_values_that_repeat_a_long_one_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "MAX_BATCH", 500_000)
    path = tmp_path / "t.parquet"
    rows = {"file_name": ["a.png"] * 50, "text": ["x" * 100_000] * 50}
    encodings = {"text": "DELTA_BYTE_ARRAY"}
    parquet.write_table(pyarrow.table(rows), path, use_dictionary=False, column_encoding=encodings)
    with path.open("rb") as file:
        batches = list(row_groups.read_record_batches(file, {"file_name", "text"}))
    assert sum(batch.num_rows for batch in batches) == 50
    assert max(batch.num_rows for batch in batches) <= 5


def test_a_column_may_have_dots_in_its_name(tmp_path: Path, small_limits: None) -> None:
    picture(tmp_path / "a.png")
    rows = {"file_name": ["a.png"], "text": ["x"], "a.b": ["x" * 10**6]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "t.parquet", compression="zstd")
    (seen,) = survey_items(Table(str(tmp_path / "t.parquet")), max_pixels=1000).scanned
    assert seen.item.fields == {}


@pytest.mark.parametrize("content", [b"\x1d" * 100, b"\x19" + b"\x19" * 100, b"\x1c" * 100, b"\x15" + b"\xff" * 20])
def test_a_header_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="header"):
        CompactReader(content).read_struct()


def test_pages_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(MANY, path, data_page_size=200)
    monkeypatch.setattr(page_headers, "MAX_PAGES", 3)
    with path.open("rb") as file, pytest.raises(ValueError, match="3 pages"):
        read_page_sizes(file, parquet.read_metadata(path).row_group(0).column(0))
