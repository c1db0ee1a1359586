"""Pictures in a folder, at any depth, with captions in metadata, in files beside them, or in their paths."""

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol, get_args

from ldm_train.data.sources.annotations import Annotation
from ldm_train.data.sources.caption_template import CaptionTemplate
from ldm_train.data.sources.folder_walk import PICTURE_SUFFIXES, FolderTree, format_suffix_counts, walk_folder
from ldm_train.data.sources.items import Item, PictureFile, format_name
from ldm_train.data.sources.metadata import MetadataTables
from ldm_train.data.sources.sidecars import Sidecars
from ldm_train.data.sources.source import Source

Captions = Literal["auto", "metadata", "sidecar", "template"]


class Annotator(Protocol):
    """A place where captions stand."""

    def tell(self, key: str) -> Annotation: ...

    def notes(self, pictures: list[str]) -> Iterator[str]: ...


class Folder(Source):
    """A folder of pictures, at any depth and through links, in the order of their paths.

    Captions stand in `metadata`: `metadata.jsonl`, `.csv` or `.parquet` in any folder, with `file_name` relative to it, the
    caption or a list of them, optionally `split` ("held_out", "validation", "val" or "test" keep from training), and further
    columns. Or in a `sidecar` beside each picture: `.txt` or `.caption`, a caption a line, or `.json`, an object. Or a
    `template` makes them of the paths.

    Args:
        path: the folder.
        captions: where they stand; "auto" finds out, and refuses to choose between two that say different things.
        caption_column: their name in metadata and in JSON.
        template: a text with {folder}, {top} or {file} in it.
        prefix, suffix: put around every caption.

    Raises:
        ValueError: no such folder, no picture in it, a bad template, or captions that stand in two places and differ.
    """

    def __init__(
        self,
        path: str,
        *,
        captions: Captions = "auto",
        caption_column: str = "text",
        template: str | None = None,
        prefix: str = "",
        suffix: str = "",
    ) -> None:
        super().__init__(prefix=prefix, suffix=suffix)
        if captions not in get_args(Captions):
            raise ValueError(f"source.captions={captions} is unknown; accepted are {', '.join(get_args(Captions))}")
        self.path = Path(str(path))
        if not self.path.is_dir():
            raise ValueError(f"source.path={path} is not a folder; give the folder that holds the pictures")
        if captions == "template" and template is None:
            raise ValueError("source.captions=template needs source.template, such as '{folder}' or 'a photo of a {top}'")
        self.captions = captions
        self.caption_column = caption_column
        self.template = None if template is None else CaptionTemplate(template, self.path)

    def items(self) -> Iterator[Item]:
        tree = walk_folder(self.path)
        if not tree.pictures:
            raise ValueError(self._nothing_found(tree))
        tellers = self._tellers(tree)
        bad_rows = [item for teller in tellers if isinstance(teller, MetadataTables) for item in teller.problems]
        problems = sorted([*tree.problems, *bad_rows], key=lambda item: item.key)
        yield from heapq.merge(problems, (self._item(key, tellers) for key in tree.pictures), key=lambda item: item.key)
        self.notes.extend(tellers[0].notes(tree.pictures))
        self.notes.extend(tree.notes())
        if self.template is not None and tellers[0] is not self.template:
            self.notes.append(f"source.template has no effect with source.captions={self.captions}")

    def _tellers(self, tree: FolderTree) -> list[Annotator]:
        """The one to listen to, then those that must not contradict it."""
        auto = self.captions == "auto"
        sidecars = Sidecars(self.path, tree.sidecars, column=self.caption_column, refuse=auto)
        found: list[Annotator] = []
        if self.template is not None and self.captions in ("auto", "template"):
            found.append(self.template)
        if self.captions == "metadata" and not tree.metadata:
            raise ValueError(f"source.captions=metadata, but no metadata.jsonl, .csv or .parquet is in {self.path}")
        if tree.metadata and self.captions in ("auto", "metadata"):
            found.append(MetadataTables(self.path, tree.metadata, tree.pictures, column=self.caption_column))
        if self.captions == "sidecar" or (auto and (not found or any(sidecars.beside(key) for key in tree.pictures))):
            found.append(sidecars)
        return found

    def _item(self, key: str, tellers: list[Annotator]) -> Item:
        told = tellers[0].tell(key)
        for teller in tellers[1:]:
            other = teller.tell(key)
            if other.captions and other.captions != told.captions:
                raise ValueError(self._differ(key, told, other))
        picture = PictureFile(self.path / key)
        return Item(key, picture, told.captions, told.origin, told.held_out, told.fields, told.problem)

    def _differ(self, key: str, told: Annotation, other: Annotation) -> str:
        here = f"{told.origin} says {told.captions[0]!r}" if told.captions else f"nothing is known of it ({told.problem})"
        return (
            f"which caption of {format_name(key)} is meant? {other.origin} says {other.captions[0]!r}, but {here}; "
            "set source.captions=metadata, sidecar or template to choose for all pictures"
        )

    def _nothing_found(self, tree: FolderTree) -> str:
        told = [f"no picture in {self.path} (looked at every depth for {' '.join(sorted(PICTURE_SUFFIXES))})"]
        told += [f"{item.origin}: {item.problem}" for item in tree.problems[:1]]
        told += [f"there are {format_suffix_counts(tree.others)}"] if tree.others else []
        kinds = {".parquet": "huggingface", ".arrow": "huggingface", ".tar": "webdataset"}
        told += [f"source={kind} reads {suffix}" for suffix, kind in kinds.items() if suffix in tree.others]
        return "; ".join([*told, "is it the right folder?"])
