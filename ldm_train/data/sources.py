"""Where captioned pictures come from. A source yields its items lazily and in a stable order, and reads nothing else."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
HELD_OUT = {"held_out", "validation", "val", "test"}


@dataclass(frozen=True)
class Item:
    """One captioned picture: a key unique in its source, the file, its captions, and whether training may see it.

    `fields` are the metadata's further columns, as text; `problem` says why it cannot be used, if so.
    """

    key: str
    path: Path
    captions: tuple[str, ...]
    held_out: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


class Source(ABC):
    """Captioned pictures in a stable order."""

    @abstractmethod
    def __iter__(self) -> Iterator[Item]: ...


class Folder(Source):
    """A folder of pictures, at any depth, with their captions in one of two places.

    `metadata.jsonl` (imagefolder's convention) holds a JSON object a line: `file_name`, relative to the folder; the caption
    as `text`, or several as a list; optionally `split`, where "held_out", "validation" or "test" keeps the example out of
    training; all else is kept as text. Without that file, each picture's caption stands in a `.txt` file beside it,
    one caption a line.

    Args:
        path: the folder.
        caption_column: the name of the caption in `metadata.jsonl`.

    Raises:
        ValueError: no such folder, no picture in it, or no caption at all.
    """

    def __init__(self, path: str, *, caption_column: str = "text") -> None:
        self.path = existing_folder(path)
        self.caption_column = caption_column

    def __iter__(self) -> Iterator[Item]:
        pictures = find_pictures(self.path)
        metadata = self.path / "metadata.jsonl"
        if metadata.is_file():
            yield from self._from_metadata(metadata, pictures)
        else:
            yield from (self._from_sidecar(key, path) for key, path in pictures.items())

    def _from_metadata(self, metadata: Path, pictures: dict[str, Path]) -> Iterator[Item]:
        rows: dict[str, Item] = {}
        with metadata.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    item = self._from_line(line, f"{metadata.name} line {number}", pictures)
                    if item.key in rows:
                        item = Item(
                            f"{metadata.name}:{number}", item.path, (), problem=f"{item.key} stands in {metadata.name} twice"
                        )
                    rows[item.key] = item
        unnamed = {key: Item(key, path, (), problem=f"not named in {metadata.name}") for key, path in pictures.items()}
        yield from (item for _, item in sorted((unnamed | rows).items()))

    def _from_line(self, line: bytes, place: str, pictures: dict[str, Path]) -> Item:
        try:
            row = json.loads(line.decode("utf-8"))
            key = row["file_name"]
            if not isinstance(key, str):
                raise TypeError("file_name is not a text")
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            return Item(
                place.replace(" line ", ":"), self.path, (), problem=f"{place}: not a JSON object with file_name ({error})"
            )
        if key not in pictures:
            return Item(key, self.path / key, (), problem=f"{place} names {key}, which is no picture in the folder")
        text = row.get(self.caption_column)
        captions = tuple(c.strip() for c in (text if isinstance(text, list) else [text]) if isinstance(c, str) and c.strip())
        rest = {k: str(v) for k, v in row.items() if k not in {"file_name", "split", self.caption_column}}
        problem = None if captions else f"no caption: {place} has no text in {self.caption_column!r}"
        return Item(key, pictures[key], captions, row.get("split") in HELD_OUT, rest, problem)

    def _from_sidecar(self, key: str, path: Path) -> Item:
        sidecar = path.with_suffix(".txt")
        try:
            captions = tuple(line.strip() for line in sidecar.read_text(encoding="utf-8").splitlines() if line.strip())
        except FileNotFoundError:
            return Item(key, path, (), problem=f"no caption: neither metadata.jsonl nor {sidecar.name} is there")
        except (OSError, UnicodeDecodeError) as error:
            return Item(key, path, (), problem=f"no caption: {sidecar.name} cannot be read ({error})")
        problem = None if captions else f"no caption: {sidecar.name} is empty"
        return Item(key, path, captions, problem=problem)


class ClassFolders(Source):
    """A folder of folders of pictures, one for each class, whose name is the caption of all in it, at any depth.

    Args:
        path: the folder.

    Raises:
        ValueError: no such folder, or no picture in it.
    """

    def __init__(self, path: str) -> None:
        self.path = existing_folder(path)

    def __iter__(self) -> Iterator[Item]:
        for key, path in find_pictures(self.path).items():
            label, _, rest = key.partition("/")
            if rest:
                yield Item(key, path, (label,))
            else:
                yield Item(
                    key, path, (), problem=f"in no class: it lies in {self.path} itself, not in a folder of its class"
                )


def existing_folder(path: str) -> Path:
    """A folder of pictures that a config names."""
    if not Path(path).is_dir():
        raise ValueError(f"source.path={path} is not a folder; give the folder that holds the pictures")
    return Path(path)


def find_pictures(folder: Path) -> dict[str, Path]:
    """Every picture in a folder, at any depth, by its path in it, in the order of these."""
    pictures = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES}
    if not pictures:
        known = " ".join(sorted(SUFFIXES))
        raise ValueError(f"no picture in {folder} (looked at every depth for {known}); is it the right folder?")
    return pictures
