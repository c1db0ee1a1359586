"""The hidden folder in which a cache is written, and the rows of the old cache that can be used again.

The old cache is not changed before the new one is complete.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ldm_train.data.cache.entries import iterate_entries
from ldm_train.data.cache.manifest import (
    Manifest,
    OtherFormatError,
    Provenance,
    find_damaged_files,
    read_captions,
    read_manifest,
)
from ldm_train.data.cache.quality import FILES
from ldm_train.data.cache.row_places import RowPlaces
from ldm_train.util.files import is_temporary, make_folder
from ldm_train.util.messages import note
from ldm_train.util.ownership import CACHE, check_folder, is_system_file, read_mark
from ldm_train.util.packed_columns import DigestColumn
from ldm_train.util.replacing import ReplacedFolder, check_replaceable
from ldm_train.util.text import list_names


@dataclass(frozen=True)
class ReusableRows:
    """The rows of a cache that can be used again.

    Args:
        places: where each row is stored, by its name.
        shards: the names of the rows in each undamaged file.
        damaged: what is wrong with the other files.
    """

    manifest: Manifest | None = None
    places: RowPlaces = field(default_factory=RowPlaces)
    shards: dict[str, DigestColumn] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "ReusableRows":
        """Compare a cache's checksums and return its rows; none if there is no cache, or one of another format."""
        if not (folder / "manifest.json").is_file():
            return cls()
        try:
            manifest = read_manifest(folder)
        except OtherFormatError as error:
            note(f"{error}: all pictures and captions are encoded again")
            return cls()
        known = cls(manifest, damaged=find_damaged_files(folder, manifest))
        if not {"entries.jsonl", "captions.jsonl"} & known.damaged.keys():
            for prefix, names in list_row_names(folder, manifest).items():
                known._place(folder, [s for s in sorted(manifest.shards) if s.rpartition("-")[0] == prefix], names)
        return known

    def _place(self, folder: Path, shards: Sequence[str], names: DigestColumn) -> None:
        start = 0
        for shard in shards:
            assert self.manifest is not None
            end = start + self.manifest.shards[shard].rows
            if shard not in self.damaged:
                self.shards[shard] = names.part(start, end)
                self.places.add(folder / shard, self.shards[shard])
            start = end


def list_row_names(folder: Path, manifest: Manifest) -> dict[str, DigestColumn]:
    """Return the sorted names of a cache's rows, by the beginning of their files' names."""
    pictures, captions = (Provenance(manifest.encoding[kind]) for kind in ("pictures", "captions"))  # type: ignore[arg-type]
    rows: dict[str, DigestColumn] = {}
    for entry in iterate_entries(folder):
        rows.setdefault(f"latents-{entry.bucket}", DigestColumn()).append(pictures.name(entry.content))
    rows["captions"] = DigestColumn.of(captions.name(text) for text in read_captions(folder))
    return {prefix: DigestColumn(np.unique(names.array()).tobytes()) for prefix, names in rows.items()}


class CacheWorkspace(ReplacedFolder):
    """The folder next to a cache in which the cache that replaces it is made.

    Args:
        folder: the cache.
        given: the value of the setting that names it, if it is not the path.
        shared: several processes write parts, of which another one may still be writing when this one fails.

    Raises:
        ValueError: the folder contains something other than a cache, which would be lost.
    """

    def __init__(self, folder: Path, given: str | None = None, *, shared: bool = False) -> None:
        check_replaceable(folder, setting="cache", given=str(folder) if given is None else given)
        check_cache(folder)
        super().__init__(folder, setting="cache", check=lambda: check_cache(folder))
        self.parts, self.spool = self.working / "parts", self.working / "pictures"
        self.batches = self.working / "batches.json"
        self.shared = shared

    def is_worth_keeping(self) -> bool:
        if self.shared and self.batches.exists():
            return True  # a part that another process writes now would bring the folder back without its mark
        return any(self.parts.glob("*.safetensors"))

    def start(self) -> None:
        """Make the folders, and keep what an interrupted encoding left in them."""
        super().start()
        for path in (self.parts, self.spool):
            make_folder(path)

    def put_in_place(self) -> None:
        """Replace the old cache by the new one, and remove everything else."""
        super().put_in_place()
        self.clear()


def check_cache(folder: Path) -> None:
    """Raise unless a folder may become a cache, or is a cache without other files.

    Raises:
        ValueError: it contains other files. Nothing was changed.
    """
    check_folder(folder, CACHE, setting="cache")
    manifest = read_mark(folder, CACHE)
    if manifest is None:
        return
    files = [names for names in (manifest["shards"], manifest["files"]) if isinstance(names, dict)]
    known = FILES.union({CACHE.mark}, *files)
    paths = (path for path in folder.iterdir() if not is_temporary(path) and not is_system_file(path))
    if foreign := sorted(path.name for path in paths if path.name not in known):
        raise ValueError(
            f"cache={folder} contains {list_names(foreign)}, which `ldm-train encode` did not write, and encoding "
            "replaces the whole folder. Nothing was changed; move these files out of the folder"
        )
