"""Write a cache: store each encoded batch as a part, then merge the parts and the rows of the old cache into a new one.

A part is named by its rows, so a later encoding uses the parts of an interrupted one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ldm_train.data.cache.index import build_columns
from ldm_train.data.cache.manifest import CACHE_FORMAT, Manifest, Shard
from ldm_train.data.cache.plan import CachePlan, format_bucket
from ldm_train.data.cache.row_places import RowLocation, RowPlaces
from ldm_train.data.cache.shards import (
    Rows,
    load_rows,
    pooled_statistics,
    read_row_metadata,
    save_rows,
    split_into_shards,
    write_shard,
)
from ldm_train.data.cache.staging import ReusableRows
from ldm_train.util.files import atomic_write, atomic_write_parts, digest_file, link_file
from ldm_train.util.safe_json import Json


@dataclass(frozen=True)
class EncodedParts:
    """The content of all parts, by the names of the rows.

    Args:
        places: where rows are stored.
        problems: why pictures cannot be decoded.
        unread: why pictures could not be read, which may be different next time.
    """

    places: RowPlaces = field(default_factory=RowPlaces)
    problems: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


def write_part(
    folder: Path,
    batch: str,
    rows: Rows,
    names: Sequence[str],
    problems: Mapping[str, str],
    unread: Mapping[str, str],
) -> None:
    """Write one encoded batch.

    Args:
        batch: its name.
        rows: tensors with a row for each of `names`.
        problems, unread: as in `EncodedParts`.

    Raises:
        OSError: the disk is full, or another failure to write.
    """
    save_rows(
        rows,
        folder / f"{batch}.safetensors",
        metadata={"names": list(names), "problems": dict(problems), "unread": dict(unread)},
    )


def read_parts(folder: Path) -> EncodedParts:
    """Return the content of a folder of parts; remove damaged parts."""
    parts = EncodedParts()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            metadata = read_row_metadata(path)
        except ValueError:  # the disk lost what it had confirmed
            path.unlink()
            continue
        parts.places.add(path, metadata["names"])
        parts.problems.update(metadata["problems"])
        parts.unread.update(metadata["unread"])
    return parts


def merge_parts(
    plan: CachePlan,
    places: Mapping[str, RowLocation],
    known: ReusableRows,
    made_by: Mapping[str, Json],
    folder: Path,
    *,
    progress: Callable[[int], None] = lambda rows: None,
) -> Manifest:
    """Write a complete cache into an empty folder, and return its manifest.

    Args:
        places: where the plan's rows are stored, by name.
        known: the old cache, whose shards are linked if they contain the same rows.
        made_by: the manifest's settings.
        progress: called with the number of rows that were written.

    Raises:
        ValueError: a row is in no place.
        OSError: the disk is full, or another failure to write.
    """
    open_file = lru_cache(maxsize=64)(load_rows)

    def fetch(name: str) -> Rows:
        place = places.get(name)
        if place is None:
            raise ValueError(
                f"a part of {folder.parent} was lost while encoding; repeat the command, which encodes it again"
            )
        return {key: rows[place.number] for key, rows in open_file(place.path).items()}

    families = {f"latents-{format_bucket(shape)}": names for shape, names in plan.rows.items()}
    families["captions"] = plan.caption_names
    shards: dict[str, Shard] = {}
    for prefix, names in families.items():
        row_bytes = sum(tensor.nbytes for tensor in fetch(names[0]).values())
        for file, part in split_into_shards(names, row_bytes, prefix):
            if known.manifest is not None and known.shards.get(file) == part:
                shards[file] = known.manifest.shards[file]
                link_file(known.places[part[0]].path, folder / file)
            else:
                shards[file] = write_shard(folder / file, part, fetch, statistics=prefix != "captions")
            progress(len(part))
    mean, std = pooled_statistics([shard for shard in shards.values() if shard.mean])
    for file, texts in plan.texts_on_disk().items():
        atomic_write_parts(folder / file, texts)
    buckets = {format_bucket(shape): len(names) for shape, names in plan.rows.items()}
    index = build_columns(plan.iterate_entries(), sorted(buckets))
    save_rows(index, folder / "index.safetensors")
    manifest = Manifest(
        **made_by,  # type: ignore[arg-type]
        format=CACHE_FORMAT,
        channels=len(mean),
        views=plan.crop.views,
        entries=len(plan.scanned),
        held_out=int(index["held_out"].sum()),
        captions=len(plan.texts),
        empty=plan.empty,
        mean=mean,
        std=std,
        buckets=buckets,
        shards=shards,
        files={path.name: digest_file(path) for path in sorted(folder.iterdir()) if path.name not in shards},
    )
    atomic_write(folder / "manifest.json", manifest.text())
    return manifest
