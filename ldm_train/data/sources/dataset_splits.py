"""Splits as `datasets` loads them; it is imported only when there is one to load."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

FILE_FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json", ".json": "json", ".csv": "csv"}


SAFE_LOADERS = ("parquet", "arrow", "json", "csv", "imagefolder")  # loaders of `datasets` that only read
UNSAFE_LOADERS = {"pandas", "generator", "spark", "sql", "eval", "harbor", "cache"}  # pandas unpickles


DataFiles = str | Sequence[str] | Mapping[str, str | Sequence[str]] | None


@dataclass(frozen=True)
class DatasetRequest:
    """Which dataset; `HuggingFace` says what each is."""

    path: str
    name: str | None
    data_files: DataFiles
    revision: str | None
    cache_dir: str | None
    streaming: bool


def load_split(request: DatasetRequest, split: str) -> "Dataset | IterableDataset":
    """One split. Raises ValueError, of one line, where it cannot be had."""
    with _bars_for_people():
        try:
            return _saved(request.path, split) if _is_saved(Path(request.path)) else _loaded(request, split)
        except Exception as error:  # whatever the network and the readers of all formats raise
            raise ValueError(f"source.path={request.path}, split {split!r}, cannot be loaded: {one_line(error)}") from error


def _loaded(request: DatasetRequest, split: str) -> "Dataset | IterableDataset":
    import datasets

    path, files = request.path, _plain(request.data_files)
    if path in UNSAFE_LOADERS:
        raise ValueError(
            f"the loader {path!r} of `datasets` can run code that the data holds; use {', '.join(SAFE_LOADERS)}"
        )
    if Path(path).is_file():
        if Path(path).suffix.lower() not in FILE_FORMATS or files is not None:
            raise ValueError(f"a file should end in one of {', '.join(FILE_FORMATS)}, and goes without source.data_files")
        path, files = FILE_FORMATS[Path(path).suffix.lower()], path
    return datasets.load_dataset(
        path,
        request.name,
        split=split,
        data_files=files,
        revision=request.revision,
        cache_dir=request.cache_dir,
        streaming=request.streaming,
    )


def _plain(files: DataFiles) -> object:
    """Lists and dicts, which `datasets` insists on, in place of a config's own."""
    if isinstance(files, Mapping):
        return {str(split): _plain(some) for split, some in files.items()}
    return files if isinstance(files, str | None) else list(files)


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote it."""
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
    """Progress bars on a terminal alone."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    change = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if change:
        disable_progress_bars()
    try:
        yield
    finally:
        if change:
            enable_progress_bars()


def one_line(error: BaseException) -> str:
    """An error's words, shortened."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:300]}…"
