"""Folders of captioned pictures that tests make, and what the source says of them."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.items import Item

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
