"""Pictures in a folder, at any depth, with captions in metadata files, in sidecars, or from their paths."""

import heapq
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

from ldm_train.data.sources.annotations import Annotation, Lines, is_same_text
from ldm_train.data.sources.caption_hints import suggest_caption_places
from ldm_train.data.sources.caption_template import CaptionTemplate
from ldm_train.data.sources.folder_walk import (
    PICTURE_SUFFIXES,
    SIDECAR_SUFFIXES,
    FolderTree,
    format_suffix_counts,
    walk_folder,
)
from ldm_train.data.sources.items import Item, PictureFile, format_name
from ldm_train.data.sources.kohya_folders import KohyaFolders
from ldm_train.data.sources.metadata import MetadataTables
from ldm_train.data.sources.rows import ROW_READERS
from ldm_train.data.sources.sidecars import Sidecars
from ldm_train.data.sources.source import Source
from ldm_train.data.sources.split_folders import SplitFolders

CaptionPlace = Literal["auto", "metadata", "sidecar", "template"]
JSON_TABLES = ("metadata.json", "meta_cap.json")  # names of tables of captions, with those that contain "captions" or "coco"


class Annotator(Protocol):
    """A place with captions."""

    def annotate(self, key: str) -> Annotation:
        """Return the annotation of the picture with this key."""

    def notes(self, pictures: list[str]) -> Iterator[str]:
        """Yield messages about the place, after all pictures were annotated."""


class Folder(Source):
    """A folder of pictures, at any depth and through links, in the order of their paths.

    Captions are in one of these places:
    - `metadata`: `metadata.jsonl`, `.csv` or `.parquet` in any folder, with the columns `file_name` (relative to it), the
      caption or a list of captions, optionally `split` ("held_out", "validation", "val" or "test" hold out), and others.
      Without one, also `metadata.json`, kohya's `meta_cap.json` and COCO's `captions_*.json`.
    - `sidecar`: a file next to each picture, `.txt` or `.caption` with a caption in each line, or `.json` with an object.
    - `template`: a text into which parts of the paths are inserted.

    Args:
        path: the folder.
        captions: the place; "auto" finds it, and raises if captions in two places differ. A list is that of the suffixes of
            files next to the pictures, of which the first with a caption is used: ["txt", "json"].
        captions_from: another folder with caption files, or a table: `.json`, `.jsonl`, `.csv`, `.tsv` or `.parquet`.
        caption_column: the captions' name in metadata and in JSON.
        lines: whether each line of a text file is a caption ("each"), or all lines are one ("one").
        template: a text with {folder}, {top} or {file} in it.
        splits: whether pictures in folders named `val` or `test` are held out if there is a `train` next to them.
        kohya: whether folders are named as kohya's: the pictures of `10_sks dog` are repeated 10 times as often as those of
            `1_dog`, and are of "sks dog" if they have no other caption.
        prefix, suffix: added to every caption.

    Raises:
        ValueError: there is no such folder, no picture in it, a bad template, or captions in two places differ.
    """

    def __init__(
        self,
        path: str,
        *,
        captions: CaptionPlace | Sequence[str] = "auto",
        captions_from: str | None = None,
        caption_column: str = "text",
        lines: Lines = "each",
        template: str | None = None,
        splits: bool = True,
        kohya: bool = False,
        prefix: str = "",
        suffix: str = "",
    ) -> None:
        super().__init__(prefix=prefix, suffix=suffix)
        if isinstance(captions, str) and captions not in get_args(CaptionPlace):
            raise ValueError(
                f"source.captions={captions} is unknown; accepted are {', '.join(get_args(CaptionPlace))}, and a list of "
                "suffixes of files next to the pictures, such as [txt,json]"
            )
        if lines not in get_args(Lines):
            raise ValueError(f"source.lines={lines} is unknown; accepted are {', '.join(get_args(Lines))}")
        self.path = Path(str(path))
        if not self.path.is_dir():
            raise ValueError(f"source.path={path} is not a folder; set it to the folder with the pictures")
        if captions == "template" and template is None:
            raise ValueError("source.captions=template needs source.template, such as '{folder}' or 'a photo of a {top}'")
        if captions_from is not None:
            elsewhere = Path(captions_from)
            if not elsewhere.is_dir() and not (elsewhere.is_file() and elsewhere.suffix.lower() in ROW_READERS):
                raise ValueError(
                    f"source.captions_from={captions_from} is neither a folder nor a table ({', '.join(ROW_READERS)})"
                )
        self.captions = "sidecar" if not isinstance(captions, str) else captions
        self.order = None if isinstance(captions, str) else [str(suffix) for suffix in captions]
        self.captions_from = None if captions_from is None else Path(captions_from)
        self.caption_column = caption_column
        self.lines: Lines = lines
        self.splits = splits
        self.kohya = kohya
        self.template = None if template is None else CaptionTemplate(template, self.path)

    def items(self) -> Iterator[Item]:
        tree = walk_folder(self.path, sidecars=self._sidecar_suffixes())
        if not tree.pictures:
            raise ValueError(self._nothing_found(tree))
        splits = SplitFolders(tree.pictures if self.splits else [])
        kohya = KohyaFolders(tree.pictures) if self.kohya else None
        annotators = self._annotators(tree)
        missing: list[str] = []
        bad_rows = [item for annotator in annotators if isinstance(annotator, MetadataTables) for item in annotator.problems]
        problems = sorted([*tree.problems, *bad_rows], key=lambda item: item.key)
        items = (self._item(key, annotators, splits, kohya) for key in tree.pictures)
        for item in heapq.merge(problems, items, key=lambda item: item.key):
            if item.picture is not None and not item.captions:
                missing.append(item.key)
            yield item
        self.notes.extend(annotators[0].notes(tree.pictures))
        self.notes.extend(tree.notes())
        self.notes.extend(splits.notes())
        self.notes.extend(kohya.notes() if kohya else [])
        if self.template is not None and annotators[0] is not self.template:
            chosen = f"captions={self.captions}" if self.captions_from is None else "captions_from"
            self.notes.append(f"source.template has no effect with source.{chosen}")
        stems = {os.path.splitext(key)[0] for key in tree.pictures}
        self.unread.update(os.path.splitext(key)[1].lower() for key in tree.unread if os.path.splitext(key)[0] not in stems)
        if missing:
            lonely = Sidecars(self.path, tree.sidecars, column="", refuse=False).list_lonely(tree.pictures)
            self.warnings.extend(suggest_caption_places(self.path, tree, missing, lonely))

    def _sidecar_suffixes(self) -> set[str]:
        return SIDECAR_SUFFIXES | {f".{suffix.lower().lstrip('.')}" for suffix in self.order or []}

    def _sidecars(self, folder: Path, files: list[str], *, elsewhere: bool = False) -> Sidecars:
        return Sidecars(
            folder,
            files,
            column=self.caption_column,
            lines=self.lines,
            order=self.order,
            refuse=self.captions == "auto",
            elsewhere=elsewhere,
        )

    def _annotators(self, tree: FolderTree) -> list[Annotator]:
        """Return the annotator to use, then those that must not contradict it."""
        auto = self.captions == "auto"
        if (place := self.captions_from) is not None:
            if place.is_dir():
                files = walk_folder(place, sidecars=self._sidecar_suffixes()).sidecars
                return [self._sidecars(place, files, elsewhere=True)]
            tables = {place.name: place}
            return [MetadataTables(self.path, tables, tree.pictures, column=self.caption_column, loose=True)]
        sidecars = self._sidecars(self.path, tree.sidecars)
        found: list[Annotator] = []
        if self.template is not None and self.captions in ("auto", "template"):
            found.append(self.template)
        if self.captions in ("auto", "metadata"):
            found.extend(self._metadata(tree))
        if self.captions == "metadata" and not found:
            raise ValueError(f"source.captions=metadata, but no metadata.jsonl, .csv or .parquet is in {self.path}")
        if self.captions == "sidecar" or (auto and (not found or any(sidecars.list_files(key) for key in tree.pictures))):
            found.append(sidecars)
        return found

    def _metadata(self, tree: FolderTree) -> Iterator[MetadataTables]:
        """Yield the tables of captions in the folder, if there are any."""
        loose = not tree.metadata
        names = tree.metadata or [name for name in tree.sidecars if _is_json_table(name)]
        stems = {os.path.splitext(key)[0] for key in tree.pictures} if loose and names else set()
        files = {name: self.path / name for name in names if os.path.splitext(name)[0] not in stems}
        if files:
            tables = MetadataTables(self.path, files, tree.pictures, column=self.caption_column, loose=loose)
            if tables.rows or not loose:
                yield tables

    def _item(self, key: str, annotators: list[Annotator], splits: SplitFolders, kohya: KohyaFolders | None) -> Item:
        held_out, inner = splits.classify(key)
        annotation = annotators[0].annotate(inner if annotators[0] is self.template else key)
        for annotator in annotators[1:]:
            other = annotator.annotate(key)
            if other.captions and not annotation.captions and getattr(annotators[0], "loose", False):
                annotation = other
            elif other.captions and not is_same_text(other.captions, annotation.captions):
                raise ValueError(self._differ(key, annotation, other))
        if kohya is not None:
            annotation = kohya.complete(key, annotation)
        return Item(
            key,
            PictureFile(self.path / key),
            annotation.captions,
            annotation.origin,
            held_out or annotation.held_out,
            annotation.fields,
            annotation.problem,
            1 if kohya is None else kohya.repeats(key),
        )

    def _differ(self, key: str, annotation: Annotation, other: Annotation) -> str:
        here = (
            f"{annotation.origin} says {annotation.captions[0]!r}"
            if annotation.captions
            else f"there is none elsewhere ({annotation.problem})"
        )
        return (
            f"which caption of {format_name(key)} is meant? {other.origin} says {other.captions[0]!r}, but {here}; "
            "set source.captions=metadata, sidecar or template to choose for all pictures"
        )

    def _nothing_found(self, tree: FolderTree) -> str:
        parts = [f"no picture in {self.path} (looked at every depth for {' '.join(sorted(PICTURE_SUFFIXES))})"]
        parts += [f"{item.origin}: {item.problem}" for item in tree.problems[:1]]
        others = tree.others + Counter(os.path.splitext(key)[1].lower() for key in tree.unread)
        parts += [f"there are {format_suffix_counts(others)}"] if others else []
        kinds = {".parquet": "huggingface", ".arrow": "huggingface", ".tar": "webdataset"}
        parts += [f"source={kind} reads {suffix}" for suffix, kind in kinds.items() if suffix in tree.others]
        return "; ".join([*parts, "is it the right folder?"])


def _is_json_table(path: str) -> bool:
    name = posixpath.basename(path).lower()
    return name.endswith(".json") and (name in JSON_TABLES or "captions" in name or "coco" in name)
