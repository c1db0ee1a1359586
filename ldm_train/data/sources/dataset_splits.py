"""Load splits with Hugging Face's `datasets`, which is imported only when a split is loaded."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ldm_train.data.sources.items import format_name
from ldm_train.data.sources.row_groups import check_parquet_file
from ldm_train.util.inputs import (
    BUFFER,
    MAX_LINE,
    MAX_SKIPPED,
    MAX_TABLE,
    READ_ERRORS,
    describe_error,
    open_input,
    read_lines,
)

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

FILE_FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json", ".json": "json", ".csv": "csv"}


SAFE_LOADERS = ("parquet", "arrow", "json", "csv", "imagefolder")  # loaders of `datasets` that run no code of the data
UNSAFE_LOADERS = {"pandas", "generator", "spark", "sql", "eval", "harbor", "cache"}  # pandas unpickles


DataFiles = str | Sequence[str] | Mapping[str, str | Sequence[str]] | None


@dataclass(frozen=True)
class DatasetRequest:
    """Which dataset to load; the fields are the arguments of `HuggingFace`."""

    path: str
    name: str | None
    data_files: DataFiles
    revision: str | None
    cache_dir: str | None
    streaming: bool


def load_split(request: DatasetRequest, split: str) -> "Dataset | IterableDataset":
    """Return one split, or raise ValueError with a message of one line if it cannot be loaded."""
    with _bars_for_people():
        try:
            return _saved(request.path, split) if _is_saved(Path(request.path)) else _loaded(request, split)
        except Exception as error:  # whatever the network and the readers of all formats raise
            raise ValueError(
                f"source.path={request.path}, split {split!r}, cannot be loaded: {describe_error(error)}"
            ) from error


def _loaded(request: DatasetRequest, split: str) -> "Dataset | IterableDataset":
    import datasets

    path, files = request.path, _plain(request.data_files)
    if path in UNSAFE_LOADERS:
        raise ValueError(f"the loader {path!r} of `datasets` can run code in the data; use {', '.join(SAFE_LOADERS)}")
    if Path(path).is_file():
        if Path(path).suffix.lower() not in FILE_FORMATS or files is not None:
            raise ValueError(f"a file must end in one of {', '.join(FILE_FORMATS)}, and is used without source.data_files")
        path, files = FILE_FORMATS[Path(path).suffix.lower()], path
    if not request.streaming:
        _check_local_files(request, path, files)
    return datasets.load_dataset(
        path,
        request.name,
        split=split,
        data_files=files,
        revision=request.revision,
        cache_dir=request.cache_dir,
        streaming=request.streaming,
    )


def _check_local_files(request: DatasetRequest, path: str, files: object) -> None:
    """Raise OSError for a file of this machine that `datasets` would need far too much memory to convert."""
    import datasets

    if not Path(path).exists() and path not in SAFE_LOADERS:
        return  # on the hub
    builder = datasets.load_dataset_builder(
        path, request.name, data_files=files, revision=request.revision, cache_dir=request.cache_dir
    )
    for split in (builder.config.data_files or {}).values():
        for file in split:
            if Path(file).suffix.lower() in FILE_FORMATS and "://" not in file:
                check_data_file(Path(file))


def check_data_file(path: Path) -> None:
    """Raise OSError if a file of data is no regular file, too large, or unpacks to far more than it has bytes."""
    try:
        with open_input(path, limit=MAX_TABLE, buffering=BUFFER) as file:
            if path.suffix.lower() == ".parquet":
                check_parquet_file(file)
            elif path.suffix.lower() != ".arrow" and os.fstat(file.fileno()).st_size > MAX_SKIPPED:
                _check_lines(file)
    except READ_ERRORS as error:
        raise OSError(f"{format_name(path.name)} cannot be read: {describe_error(error)}") from error


def _check_lines(file: BinaryIO) -> None:
    if any(line is None for line in read_lines(file)):
        raise OSError(f"it has a line of more than {MAX_LINE:,} bytes; convert it to .jsonl or .parquet")


def _plain(files: DataFiles) -> object:
    """Return plain lists and dicts, which `datasets` requires, for those of a config."""
    if isinstance(files, Mapping):
        return {str(split): _plain(some) for split, some in files.items()}
    return files if isinstance(files, str | None) else list(files)


def _is_saved(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _saved(path: str, split: str) -> "Dataset":
    import datasets

    data = datasets.load_from_disk(path)
    if isinstance(data, datasets.Dataset):
        data = {str(data.split or "train"): data}
    if split not in data:
        raise ValueError(f"its splits are {', '.join(data)}")
    return data[split]


@contextmanager
def _bars_for_people() -> Iterator[None]:
    """Show progress bars only on a terminal."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    change = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if change:
        disable_progress_bars()
    try:
        yield
    finally:
        if change:
            enable_progress_bars()
