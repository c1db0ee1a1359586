"""Pictures in a folder, at any depth, with captions in metadata files, in sidecars, or from their paths."""

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

CaptionPlace = Literal["auto", "metadata", "sidecar", "template"]


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
    - `sidecar`: a file next to each picture, `.txt` or `.caption` with a caption in each line, or `.json` with an object.
    - `template`: a text into which parts of the paths are inserted.

    Args:
        path: the folder.
        captions: the place; "auto" finds it, and raises if captions in two places differ.
        caption_column: the captions' name in metadata and in JSON.
        template: a text with {folder}, {top} or {file} in it.
        prefix, suffix: added to every caption.

    Raises:
        ValueError: there is no such folder, no picture in it, a bad template, or captions in two places differ.
    """

    def __init__(
        self,
        path: str,
        *,
        captions: CaptionPlace = "auto",
        caption_column: str = "text",
        template: str | None = None,
        prefix: str = "",
        suffix: str = "",
    ) -> None:
        super().__init__(prefix=prefix, suffix=suffix)
        if captions not in get_args(CaptionPlace):
            raise ValueError(f"source.captions={captions} is unknown; accepted are {', '.join(get_args(CaptionPlace))}")
        self.path = Path(str(path))
        if not self.path.is_dir():
            raise ValueError(f"source.path={path} is not a folder; set it to the folder with the pictures")
        if captions == "template" and template is None:
            raise ValueError(
                "source.captions=template needs one: source.template={folder}, or 'source.template=a photo of a {top}'"
            )
        self.captions = captions
        self.caption_column = caption_column
        self.template = None if template is None else CaptionTemplate(template, self.path)

    def items(self) -> Iterator[Item]:
        tree = walk_folder(self.path)
        if not tree.pictures:
            raise ValueError(self._nothing_found(tree))
        annotators = self._annotators(tree)
        bad_rows = [item for annotator in annotators if isinstance(annotator, MetadataTables) for item in annotator.problems]
        problems = sorted([*tree.problems, *bad_rows], key=lambda item: item.key)
        yield from heapq.merge(problems, (self._item(key, annotators) for key in tree.pictures), key=lambda item: item.key)
        self.notes.extend(annotators[0].notes(tree.pictures))
        self.notes.extend(tree.notes())
        if self.template is not None and annotators[0] is not self.template:
            self.notes.append(f"source.template has no effect with source.captions={self.captions}")

    def _annotators(self, tree: FolderTree) -> list[Annotator]:
        """Return the annotator to use, then those that must not contradict it."""
        auto = self.captions == "auto"
        sidecars = Sidecars(self.path, tree.sidecars, column=self.caption_column, refuse=auto)
        found: list[Annotator] = []
        if self.template is not None and self.captions in ("auto", "template"):
            found.append(self.template)
        if self.captions == "metadata" and not tree.metadata:
            raise ValueError(f"source.captions=metadata, but no metadata.jsonl, .csv or .parquet is in {self.path}")
        if tree.metadata and self.captions in ("auto", "metadata"):
            found.append(MetadataTables(self.path, tree.metadata, tree.pictures, column=self.caption_column))
        if self.captions == "sidecar" or (auto and (not found or any(sidecars.list_files(key) for key in tree.pictures))):
            found.append(sidecars)
        return found

    def _item(self, key: str, annotators: list[Annotator]) -> Item:
        annotation = annotators[0].annotate(key)
        for annotator in annotators[1:]:
            other = annotator.annotate(key)
            if other.captions and other.captions != annotation.captions:
                raise ValueError(self._differ(key, annotation, other))
        picture = PictureFile(self.path / key)
        return Item(
            key, picture, annotation.captions, annotation.origin, annotation.held_out, annotation.fields, annotation.problem
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
        parts += [f"there are {format_suffix_counts(tree.others)}"] if tree.others else []
        kinds = {".parquet": "huggingface", ".arrow": "huggingface", ".tar": "webdataset"}
        parts += [f"source={kind} reads {suffix}" for suffix, kind in kinds.items() if suffix in tree.others]
        return "; ".join([*parts, "is it the right folder?"])
