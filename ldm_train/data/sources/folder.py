"""Pictures in a folder, at any depth, with captions in metadata files, in sidecars, or from their paths."""

import heapq
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ldm_train.data.pictures.formats import PICTURE_SUFFIXES
from ldm_train.data.sources.annotations import Annotation, Lines, is_same_text
from ldm_train.data.sources.caption_hints import suggest_caption_places
from ldm_train.data.sources.caption_places import Annotator, CaptionPlace, CaptionPlaces
from ldm_train.data.sources.caption_template import CaptionTemplate
from ldm_train.data.sources.folder_walk import FolderTree, format_suffix_counts, is_archive, walk_folder
from ldm_train.data.sources.items import Item, PictureFile, format_name
from ldm_train.data.sources.kohya_folders import KohyaFolders, is_kohya_layout
from ldm_train.data.sources.map_paths import MapPaths
from ldm_train.data.sources.metadata import MetadataTables
from ldm_train.data.sources.sidecars import Sidecars
from ldm_train.data.sources.source import Source
from ldm_train.data.sources.split_folders import SplitFolders
from ldm_train.data.sources.trainer_leftovers import describe_leftovers, find_leftovers


class Folder(Source):
    """A folder of pictures, at any depth and through links, in the order of their paths.

    Captions are in one of these places:
    - `metadata`: `metadata.jsonl`, `.csv` or `.parquet` in any folder, with the columns `file_name` (relative to it), the
      caption or a list of captions, optionally `split` ("held_out", "validation", "valid", "val", "dev" or
      "test" hold out), and others.
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
        maps: paths of each picture's maps as seen from the folder, with {stem}, {name}, {number} or {folder} of the
            picture in them: {"depth": "depth/{stem}.png"}. Files that are maps are no pictures.

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
        maps: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(prefix=prefix, suffix=suffix, maps=maps)
        self.path = Path(str(path))
        if is_archive(self.path.name) and self.path.is_file():
            raise ValueError(f"source.path={path} is an archive; unpack it, and set source.path to the folder")
        if not self.path.is_dir():
            raise ValueError(f"source.path={path} is not a folder; set it to the folder with the pictures")
        self.map_paths = MapPaths(self.maps, self.path)
        self.splits = splits
        self.kohya = kohya
        self.template = None if template is None else CaptionTemplate(template, self.path)
        self.places = CaptionPlaces(self.path, captions, captions_from, caption_column, lines, self.template)

    def items(self) -> Iterator[Item]:
        tree = walk_folder(self.path, sidecars=self.places.sidecar_suffixes())
        if not tree.pictures:
            raise ValueError(self._nothing_found(tree))
        tree.set_apart(*self.map_paths.separate(tree.pictures))
        splits = SplitFolders(tree.pictures if self.splits else [])
        kohya = KohyaFolders(tree.pictures) if self.kohya else None
        annotators = self.places.find_annotators(tree)
        missing: list[str] = []
        likely_left, left = find_leftovers(tree.pictures), list[str]()
        bad_rows = [item for annotator in annotators if isinstance(annotator, MetadataTables) for item in annotator.problems]
        problems = sorted([*tree.problems, *bad_rows], key=lambda item: item.key)
        items = (self._item(key, annotators, splits, kohya) for key in tree.pictures)
        for item in heapq.merge(problems, items, key=lambda item: item.key):
            if item.key in likely_left and not item.captions:
                left.append(item.key)
                continue
            if item.picture is not None and not item.captions:
                missing.append(item.key)
            yield item
        self.notes.extend(annotators[0].notes(tree.pictures))
        self.notes.extend(tree.notes())
        self.notes.extend([describe_leftovers(left)] if left else [])
        self.notes.extend(splits.notes())
        self.notes.extend(self.map_paths.notes(tree.pictures))
        self.notes.extend(kohya.notes() if kohya else [])
        if self.template is not None and annotators[0] is not self.template:
            self.notes.append(f"source.template has no effect with source.{self.places.setting}")
        stems = {os.path.splitext(key)[0] for key in tree.pictures}
        self.unread.update(os.path.splitext(key)[1].lower() for key in tree.unread if os.path.splitext(key)[0] not in stems)
        if missing and self.needs_captions:
            tables = [one for one in annotators if isinstance(one, MetadataTables)]
            used = [*self.places.list_given(), *(self.path / file for table in tables for file in table.files)]
            lonely = Sidecars(self.path, tree.sidecars, column="", refuse=False).list_lonely(tree.pictures)
            self.warnings.extend(
                suggest_caption_places(
                    self.path,
                    tree,
                    missing,
                    lonely,
                    used=used,
                    template=bool(self.places.list_given()) or annotators[0] is self.template,
                )
            )
        elif not self.kohya and annotators[0] is not self.template and is_kohya_layout(tree.pictures):
            self.notes.append("the folders' names may be repeats as kohya's are; source=kohya reads them")

    def _item(self, key: str, annotators: list[Annotator], splits: SplitFolders, kohya: KohyaFolders | None) -> Item:
        held_out, inner = splits.classify(key)
        first = annotators[0]
        annotation = first.annotate(inner if first is self.template else key)
        is_loose = isinstance(first, MetadataTables) and first.loose
        for annotator in annotators[1:]:
            other = annotator.annotate(key)
            if other.captions and not annotation.captions and is_loose:
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
            self.map_paths.find(key),
        )

    def _differ(self, key: str, annotation: Annotation, other: Annotation) -> str:
        here = (
            f"{annotation.origin} says {annotation.captions[0]!r}"
            if annotation.captions
            else f"there is none elsewhere ({annotation.problem})"
        )
        choices = (
            "set source=kohya and source.captions=sidecar, or source=kohya and source.captions=metadata,"
            if self.kohya or is_kohya_layout([key])
            else "set source.captions=metadata, sidecar or template"
        )
        return (
            f"which caption of {format_name(key)} is meant? {other.origin} says {other.captions[0]!r}, but {here}; "
            f"{choices} to choose for all pictures"
        )

    def _nothing_found(self, tree: FolderTree) -> str:
        parts = [f"no picture in {self.path} (looked at every depth for {' '.join(sorted(PICTURE_SUFFIXES))})"]
        parts += [f"{item.origin}: {item.problem}" for item in tree.problems[:1]]
        others = tree.others + Counter(os.path.splitext(key)[1].lower() for key in tree.unread)
        parts += [f"there are {format_suffix_counts(others)}"] if others else []
        parts += tree.archive_notes()
        kinds = {".parquet": "huggingface", ".arrow": "huggingface", ".tar": "webdataset"}
        parts += [f"source={kind} reads {suffix}" for suffix, kind in kinds.items() if suffix in tree.others]
        return "; ".join([*parts, "is it the right folder?"])
