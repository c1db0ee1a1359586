"""Compare an existing cache with the source and the settings."""

from dataclasses import asdict, dataclass
from pathlib import Path

from ldm_train.assembly.cache_identity import describe_encoders
from ldm_train.assembly.encode_cache import refuse_emptying
from ldm_train.data.cache.entries import read_entries
from ldm_train.data.cache.manifest import TF32_KEY, describe_differences, read_manifest
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.cache.staging import ReusableRows
from ldm_train.data.pictures.crops import Crop
from ldm_train.data.scan.survey import Survey
from ldm_train.settings.schema.training import CheckSettings


@dataclass(frozen=True)
class CacheComparison:
    """A cache, and what encoding into it would do.

    Args:
        there: whether the cache exists.
        holds: number of the usable pictures that it has.
        new_pictures, new_captions: how many would be encoded.
        dropped: keys of its pictures that the source no longer has.
        differences: settings that it was encoded with and that differ now; encoding starts anew, and training refuses them.
        damaged: the problem of each file that changed or is missing, by name.
    """

    folder: str
    there: bool
    holds: int
    new_pictures: int
    new_captions: int
    dropped: list[str]
    differences: list[str]
    damaged: dict[str, str]


def compare_cache(
    settings: CheckSettings, folder: Path, survey: Survey, crop: Crop, *, is_only_cache: bool
) -> CacheComparison:
    """Compare a cache with the settings and, if it is the only one, with the source.

    With several caches, the source belongs to just one of them, and which one is unknown.

    Raises:
        ValueError: the cache cannot be read, or most of its pictures are missing from the source.
    """
    if not (folder / "manifest.json").is_file():
        return CacheComparison(str(folder), False, 0, 0, 0, [], [], {})
    manifest = read_manifest(folder)
    pictures = manifest.encoding["pictures"]
    tf32 = isinstance(pictures, dict) and bool(pictures.get(TF32_KEY))  # of the machine that encodes, which may be another
    encoders = describe_encoders(settings, manifest, cache=folder, tf32=tf32)
    made_by = encoders.made_by(settings, crop)
    differences = describe_differences(asdict(manifest), {name: made_by[name] for name in ("encoding", "shift", "scale")})
    if not is_only_cache:
        return CacheComparison(str(folder), True, 0, 0, 0, [], differences, {})
    reusable = ReusableRows.of(folder)
    plan = CachePlan(survey, crop, pictures=encoders.pictures(settings, crop), captions=encoders.captions(), bad={})
    refuse_emptying(reusable, plan, folder, prune=settings.prune)
    keys = {scanned.item.key for scanned in plan.scanned}
    before = set() if "entries.jsonl" in reusable.damaged else {entry.key for entry in read_entries(folder)}
    return CacheComparison(
        str(folder),
        True,
        holds=plan.count_known(reusable.places),
        new_pictures=sum(name not in reusable.places for names in plan.rows.values() for name in names),
        new_captions=sum(name not in reusable.places for name in plan.caption_names),
        dropped=sorted(before - keys),
        differences=differences,
        damaged=reusable.damaged,
    )
