"""Where a cache is written: the folder beside it, alone with it, with what the old cache holds that can be used again.

Nothing of the old cache is touched before the new one is whole.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from ldm_train.data.manifest import (
    Manifest,
    OtherFormatError,
    Provenance,
    damaged_files,
    read_captions,
    read_entries,
    read_manifest,
)


@dataclass(frozen=True)
class Place:
    """Where a row lies: a file of rows, and the number in it."""

    path: Path
    number: int


@dataclass(frozen=True)
class Known:
    """The rows of a cache that can be used again: their places by name, and the names of each sound file of rows."""

    manifest: Manifest | None = None
    places: dict[str, Place] = field(default_factory=dict)
    shards: dict[str, list[str]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Known":
        """What a cache holds, after its checksums were compared; nothing where there is none, or another version's."""
        if not (folder / "manifest.json").is_file():
            return cls()
        try:
            manifest = read_manifest(folder)
        except OtherFormatError as error:
            print(f"{error}: everything is encoded anew")
            return cls()
        known = cls(manifest, damaged=damaged_files(folder, manifest))
        if not {"entries.jsonl", "captions.jsonl"} & known.damaged.keys():
            for prefix, names in row_names(folder, manifest).items():
                known._place(folder, [s for s in sorted(manifest.shards) if s.rpartition("-")[0] == prefix], names)
        return known

    def _place(self, folder: Path, shards: Sequence[str], names: Sequence[str]) -> None:
        start = 0
        for shard in shards:
            assert self.manifest is not None
            end = start + self.manifest.shards[shard].rows
            if shard not in self.damaged:
                self.shards[shard] = list(names[start:end])
                self.places.update({name: Place(folder / shard, i) for i, name in enumerate(names[start:end])})
            start = end


def row_names(folder: Path, manifest: Manifest) -> dict[str, list[str]]:
    """The names of a cache's rows in their order, by the beginning of the files that hold them."""
    pictures, captions = (Provenance(manifest.encoding[kind]) for kind in ("pictures", "captions"))  # type: ignore[arg-type]
    rows: dict[str, set[str]] = {}
    for entry in read_entries(folder):
        rows.setdefault(f"latents-{entry.bucket}", set()).add(pictures.name(entry.picture))
    rows["captions"] = {captions.name(text) for text in read_captions(folder)}
    return {prefix: sorted(names) for prefix, names in rows.items()}


class Workplace:
    """The folder beside a cache in which its next state is made.

    Args:
        folder: where the finished cache will lie.

    Raises:
        ValueError: something lies there that is no cache, which replacing would destroy.
    """

    def __init__(self, folder: Path) -> None:
        known = (folder / "manifest.json").is_file() or (folder.is_dir() and not any(folder.iterdir()))
        if folder.exists() and not known:
            raise ValueError(f"cache={folder} is there and is no latent cache; nothing was touched, choose another folder")
        if os.path.ismount(folder):
            raise ValueError(f"cache={folder} is a mount point, which cannot be replaced as a whole; name a folder in it")
        self.folder = folder
        self.writing = folder.with_name(folder.name + ".writing")
        self.old = folder.with_name(folder.name + ".old")
        self.parts, self.spool, self.new = (self.writing / name for name in ("parts", "pictures", "new"))
        self.batches = self.writing / "batches.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the cache, for as long as this process lives.

        Raises:
            ValueError: another process writes it.
        """
        path = self.folder.with_name(self.folder.name + ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise ValueError(f"cache={self.folder} is being written by another process; wait for it, or stop it") from error
        try:
            if self.old.exists() and not self.folder.exists():
                self.old.rename(self.folder)  # killed between the two renames
            yield
        finally:
            if not any(self.parts.glob("*.safetensors")):
                shutil.rmtree(self.writing, ignore_errors=True)
            path.unlink(missing_ok=True)
            lock.release()

    def start(self) -> None:
        """Make the folders; what an interrupted encoding left in them stays."""
        shutil.rmtree(self.new, ignore_errors=True)
        for path in (self.parts, self.spool, self.new):
            path.mkdir(parents=True, exist_ok=True)
        for half_written in self.writing.rglob("*.writing"):
            half_written.unlink()

    def put_in_place(self) -> None:
        """The new cache for the old one, and all else away."""
        if self.folder.exists():
            shutil.rmtree(self.old, ignore_errors=True)
            self.folder.rename(self.old)
        self.new.rename(self.folder)
        self.clear()

    def clear(self) -> None:
        for path in (self.old, self.writing):
            shutil.rmtree(path, ignore_errors=True)
