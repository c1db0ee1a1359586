"""Where a folder's captions are: in tables, in files next to the pictures or in another folder, or in the paths."""

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from ldm_train.data.sources.annotations import Annotation, Lines, require_lines
from ldm_train.data.sources.caption_template import CaptionTemplate
from ldm_train.data.sources.folder_walk import SIDECAR_SUFFIXES, FolderTree, walk_folder
from ldm_train.data.sources.metadata import MetadataTables
from ldm_train.data.sources.rows import ROW_READERS
from ldm_train.data.sources.sidecars import Sidecars

CaptionPlace = Literal["auto", "metadata", "sidecar", "template"]
JSON_TABLES = ("metadata.json", "meta_cap.json")  # names of tables of captions, with those that contain "captions" or "coco"


class Annotator(Protocol):
    """A place with captions."""

    def annotate(self, key: str) -> Annotation:
        """Return the annotation of the picture with this key."""

    def notes(self, pictures: list[str]) -> Iterator[str]:
        """Yield messages about the place, after all pictures were annotated."""


@dataclass(frozen=True)
class CaptionPlaces:
    """Where to look for captions; the arguments are those of `Folder`.

    Raises:
        ValueError: an unknown place, or one that is missing.
    """

    root: Path
    captions: CaptionPlace | Sequence[str]
    captions_from: str | None
    column: str
    lines: Lines
    template: CaptionTemplate | None

    def __post_init__(self) -> None:
        if self.captions not in get_args(CaptionPlace) if isinstance(self.captions, str) else not self.captions:
            raise ValueError(
                f"source.captions={self.captions} is unknown; accepted are {', '.join(get_args(CaptionPlace))}, and a list "
                "of suffixes of files next to the pictures, such as [txt,json]"
            )
        require_lines(self.lines)
        if self.captions == "template" and self.template is None:
            raise ValueError(
                "source.captions=template needs one: source.template={folder}, or 'source.template=a photo of a {top}'"
            )
        place = self._elsewhere
        if place and not place.is_dir() and not (place.is_file() and place.suffix.lower() in ROW_READERS):
            raise ValueError(f"source.captions_from={place} is neither a folder nor a table ({', '.join(ROW_READERS)})")

    @property
    def _order(self) -> list[str] | None:
        """The suffixes of caption files in the order of the setting, ".txt"; None if it names a place."""
        return None if isinstance(self.captions, str) else [f".{one.lower().lstrip('.')}" for one in map(str, self.captions)]

    @property
    def _elsewhere(self) -> Path | None:
        return None if self.captions_from is None else Path(self.captions_from)

    def list_given(self) -> list[Path]:
        """Return the folder or table of the setting, if there is one."""
        return [self._elsewhere] if self._elsewhere is not None else []

    @property
    def setting(self) -> str:
        """The setting that decides the place."""
        return f"captions={self.captions}" if self.captions_from is None else f"captions_from={self.captions_from}"

    def sidecar_suffixes(self) -> set[str]:
        """Return the suffixes of files that may have captions."""
        return SIDECAR_SUFFIXES | {*(self._order or ())}

    def find_annotators(self, tree: FolderTree) -> list[Annotator]:
        """Return the annotator to use, then those that must not contradict it."""
        if (place := self._elsewhere) is not None:
            if place.is_dir():
                files = walk_folder(place, sidecars=self.sidecar_suffixes()).sidecars
                return [self._sidecars(place, files, elsewhere=True)]
            tables = {place.name: place}
            return [MetadataTables(self.root, tables, tree.pictures, column=self.column, loose=True)]
        auto = self.captions == "auto"
        sidecars = self._sidecars(self.root, tree.sidecars)
        found: list[Annotator] = []
        if self.template is not None and self.captions in ("auto", "template"):
            found.append(self.template)
        if self.captions in ("auto", "metadata"):
            found.extend(self._metadata(tree))
        if self.captions == "metadata" and not found:
            raise ValueError(f"source.captions=metadata, but no metadata.jsonl, .csv or .parquet is in {self.root}")
        if not found or (auto and any(sidecars.list_files(key) for key in tree.pictures)):
            found.append(sidecars)
        return found

    def _sidecars(self, folder: Path, files: list[str], *, elsewhere: bool = False) -> Sidecars:
        return Sidecars(
            folder,
            files,
            column=self.column,
            lines=self.lines,
            order=self._order,
            refuse=self.captions == "auto",
            elsewhere=elsewhere,
        )

    def _metadata(self, tree: FolderTree) -> Iterator[MetadataTables]:
        """Yield the tables of captions in the folder, if there are any."""
        loose = not tree.metadata
        names = tree.metadata or [name for name in tree.sidecars if _is_json_table(name)]
        stems = {os.path.splitext(key)[0] for key in tree.pictures} if loose and names else set()
        files = {name: self.root / name for name in names if os.path.splitext(name)[0] not in stems}
        if files:
            tables = MetadataTables(self.root, files, tree.pictures, column=self.column, loose=loose)
            if tables.rows or not loose:
                yield tables


def _is_json_table(path: str) -> bool:
    name = posixpath.basename(path).lower()
    return name.endswith(".json") and (name in JSON_TABLES or "captions" in name or "coco" in name)
