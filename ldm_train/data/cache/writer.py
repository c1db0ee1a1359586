"""Writing a cache: encoded batches as parts, then parts and what the older cache holds as a new one.

A part is named by its rows, so whatever an interrupted encoding left is used by the next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ldm_train.data.cache.index import columns
from ldm_train.data.cache.manifest import FORMAT, Manifest, Shard, file_digest
from ldm_train.data.cache.plan import Plan, bucket_name
from ldm_train.data.cache.shards import Rows, load, pooled_statistics, save, split, told_in, write_shard
from ldm_train.data.cache.staging import Known, Place
from ldm_train.util.files import atomic_write, link_file
from ldm_train.util.safe_json import Json


@dataclass(frozen=True)
class Parts:
    """All that is in the parts, by rows' names: where they are, or why they are not.

    `problems` are of pictures that cannot be decoded, `unread` of those whose bytes could not be had, which may pass.
    """

    places: dict[str, Place] = field(default_factory=dict)
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
    """One encoded batch: tensors whose rows have these names, and by name why others have none.

    Raises:
        OSError: the disk is full, or the like.
    """
    save(
        rows,
        folder / f"{batch}.safetensors",
        told={"names": list(names), "problems": dict(problems), "unread": dict(unread)},
    )


def read_parts(folder: Path) -> Parts:
    """What is in a folder of parts."""
    parts = Parts()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            told = told_in(path)
        except ValueError:  # a disk that lost what it had said was written
            path.unlink()
            continue
        parts.places.update({name: Place(path, number) for number, name in enumerate(told["names"])})
        parts.problems.update(told["problems"])
        parts.unread.update(told["unread"])
    return parts


def merge(
    plan: Plan,
    places: Mapping[str, Place],
    known: Known,
    made_by: Mapping[str, Json],
    folder: Path,
    *,
    progress: Callable[[int], None] = lambda rows: None,
) -> Manifest:
    """Write a whole cache into an empty folder, and give its manifest.

    Args:
        places: where the rows of the plan lie, by name.
        known: the older cache, whose files of rows are linked where they hold the same rows.
        made_by: the manifest's settings.
        progress: told how many rows were written.

    Raises:
        OSError: the disk is full, or the like.
    """
    open_file = lru_cache(maxsize=64)(load)

    def fetch(name: str) -> Rows:
        if name not in places:
            raise ValueError(f"a part of {folder.parent} was lost while encoding; encode again, which makes it anew")
        place = places[name]
        return {key: rows[place.number] for key, rows in open_file(place.path).items()}

    families = {f"latents-{bucket_name(shape)}": names for shape, names in plan.rows.items()}
    families["captions"] = [plan.caption_rows[text] for text in plan.texts]
    shards: dict[str, Shard] = {}
    for prefix, names in families.items():
        row_bytes = sum(tensor.nbytes for tensor in fetch(names[0]).values())
        for file, part in split(names, row_bytes, prefix):
            if known.manifest is not None and known.shards.get(file) == part:
                shards[file] = known.manifest.shards[file]
                link_file(known.places[part[0]].path, folder / file)
            else:
                shards[file] = write_shard(folder / file, part, fetch, statistics=prefix != "captions")
            progress(len(part))
    mean, std = pooled_statistics([shard for shard in shards.values() if shard.mean])
    for file, text in plan.texts_on_disk().items():
        atomic_write(folder / file, text)
    entries, buckets = plan.entries(), {bucket_name(shape): len(names) for shape, names in plan.rows.items()}
    save(columns(entries, sorted(buckets)), folder / "index.safetensors")
    manifest = Manifest(
        **made_by,  # type: ignore[arg-type]
        format=FORMAT,
        channels=len(mean),
        views=plan.crop.views,
        entries=len(entries),
        held_out=sum(entry.held_out for entry in entries),
        captions=len(plan.texts),
        empty=plan.texts.index(""),
        mean=mean,
        std=std,
        buckets=buckets,
        shards=shards,
        files={path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name not in shards},
    )
    atomic_write(folder / "manifest.json", manifest.text())
    return manifest
