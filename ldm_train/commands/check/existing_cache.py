"""A cache that is there already, against the source and the settings of now."""

from dataclasses import asdict, dataclass
from pathlib import Path

from ldm_train.assembly.cache_identity import describe
from ldm_train.assembly.encode_cache import refuse_emptying
from ldm_train.data.cache.manifest import describe_differences, read_entries, read_manifest
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.cache.staging import ReusableRows
from ldm_train.data.pictures.crops import Crop
from ldm_train.data.scan.survey import Survey
from ldm_train.settings.schema.training import CheckSettings


@dataclass(frozen=True)
class Compared:
    """A cache and what encoding into it would do.

    Args:
        there: whether there is one.
        holds: how many of the usable pictures.
        new_pictures, new_captions: what would be encoded.
        dropped: keys of pictures that it has, and the source has no more.
        differences: settings that made it otherwise, so that all is encoded anew, and that training refuses.
        damaged: files that changed or are missing, and what is wrong with each.
    """

    folder: str
    there: bool
    holds: int
    new_pictures: int
    new_captions: int
    dropped: list[str]
    differences: list[str]
    damaged: dict[str, str]


def compare(config: CheckSettings, folder: Path, found: Survey, crop: Crop, *, alone: bool) -> Compared:
    """A cache, with the source unless others stand beside it, of which the source is one's.

    Raises:
        ValueError: it cannot be read, or most of its pictures are gone from the source.
    """
    if not (folder / "manifest.json").is_file():
        return Compared(str(folder), False, 0, 0, 0, [], [], {})
    manifest = read_manifest(folder)
    encoders = describe(config, manifest, cache=folder)
    made_by = encoders.made_by(config, crop)
    told = describe_differences(asdict(manifest), {name: made_by[name] for name in ("encoding", "shift", "scale")})
    if not alone:
        return Compared(str(folder), True, 0, 0, 0, [], told, {})
    known = ReusableRows.of(folder)
    plan = CachePlan(found, crop, pictures=encoders.pictures(config, crop), captions=encoders.captions(), bad={})
    refuse_emptying(known, plan, folder, prune=config.prune)
    keys = {seen.item.key for seen in plan.scanned}
    before = set() if "entries.jsonl" in known.damaged else {entry.key for entry in read_entries(folder)}
    return Compared(
        str(folder),
        True,
        holds=sum(plan.named[seen.digest] in known.places for seen in plan.scanned),
        new_pictures=len(set(plan.named.values()) - known.places.keys()),
        new_captions=len(set(plan.caption_rows.values()) - known.places.keys()),
        dropped=sorted(before - keys),
        differences=told,
        damaged=known.damaged,
    )
