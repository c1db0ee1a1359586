"""Encode captioned pictures into a latent cache: survey the source, plan, encode what is missing, merge, swap it in."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from rich.progress import Progress

from ldm_train.assembly.cache_identity import Encoders, describe
from ldm_train.assembly.source_survey import labels_of, look, name_classes, refuse_settings, refuse_shapes
from ldm_train.assembly.trainer import refuse_processes
from ldm_train.data.cache.manifest import Manifest, describe_differences, read_entries
from ldm_train.data.cache.plan import CachePlan, EncodingBatch, read_planned_batches, read_undecodable, write_planned_batches
from ldm_train.data.cache.staging import CacheWorkspace, ReusableRows
from ldm_train.data.pictures.crops import Crop
from ldm_train.data.scan.survey import ScanMemory, Survey
from ldm_train.data.sources.items import EncodedPicture, PictureFile, format_name
from ldm_train.settings.composition import build
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.util.files import hidden_path
from ldm_train.util.processes import is_only_process, launched_rank
from ldm_train.util.safe_json import Json

MOST_DROPPED = 0.1


@dataclass(frozen=True)
class Job:
    """What is to become a cache."""

    config: EncodeSettings
    place: CacheWorkspace
    crop: Crop
    known: ReusableRows
    found: Survey
    encoders: Encoders

    def plan(self, bad: Mapping[str, str], unread: Mapping[str, str] = MappingProxyType({})) -> CachePlan:
        """The cache's rows and entries, without the pictures of these digests."""
        pictures, captions = self.encoders.pictures(self.config, self.crop), self.encoders.captions()
        return CachePlan(self.found, self.crop, pictures=pictures, captions=captions, bad=bad, unread=unread)

    def missing(self, plan: CachePlan, known: Collection[str]) -> list[EncodingBatch]:
        """The batches that are yet to be encoded where rows of these names are known."""
        return plan.batches(known, pictures=max(1, self.config.batch_size // self.crop.views))

    @property
    def made_by(self) -> dict[str, Json]:
        return self.encoders.made_by(self.config, self.crop)


def lead(config: EncodeSettings, place: CacheWorkspace, crop: Crop) -> int:
    """What the first process does: look, decide, encode with the others, merge."""
    known = ReusableRows.of(place.folder)
    for name, problem in known.damaged.items():
        print(f"{place.folder / name} {problem}: what it held is encoded again")
    remembered = hidden_path(place.folder, ".ldm-train-stat.json")
    memory = ScanMemory(remembered) if config.unchanged_by == "stat" else None
    found = look(config, memory=memory, spool=place.spool)
    config = config.with_values(text_encoder=name_classes(config.text_encoder, labels_of(found)))
    job = Job(config, place, crop, known, found, describe(config, known.manifest, cache=place.folder))
    refuse_shapes(crop.shapes, job.encoders.factor)
    same_version = known.manifest is not None and not changes(known.manifest, job.made_by, "encoding.pictures.version:")
    bad = read_undecodable(place.folder / "report.json") if same_version and "report.json" not in known.damaged else {}
    plan = job.plan(bad)
    refuse_emptying(known, plan, place.folder, prune=config.prune)
    if not job.missing(plan, known.places) and unchanged(known, plan, job.made_by, place.folder):
        if not is_only_process(num_nodes=config.trainer.num_nodes):
            release(config, place, crop)
        place.clear()
        print(f"{len(plan.scanned)} pictures in {place.folder}: nothing changed, nothing to encode")
    else:
        plan = encode(job, plan, bad)
    if plan.problems:
        print(
            f"{len(plan.problems)} left out; {place.folder / 'report.json'} names them"
            + (" (strict=true: exit code 1)" if config.strict else "")
        )
    return 1 if config.strict and plan.problems else 0


def encode(job: Job, plan: CachePlan, bad: Mapping[str, str]) -> CachePlan:
    """Encode what neither the cache nor an interrupted encoding has, and put the new cache in the old one's place."""
    from ldm_train.assembly.encode_batches import encode_batches, refuse_scale, summarise
    from ldm_train.data.cache.writer import merge_parts, read_parts

    place, known = job.place, job.known
    if known.manifest is not None and (told := changes(known.manifest, job.made_by)):
        print("encoded anew, since these changed: " + "; ".join(told))
    parts = read_parts(place.parts)
    if parts.places:
        print(f"{len(parts.places)} pictures and captions were encoded before an interruption")
    todo = job.missing(plan, known.places.keys() | parts.places.keys() | parts.problems.keys())
    write_planned_batches(place.batches, todo)
    pictures = {seen.item.key: seen.item.picture for seen in plan.first.values() if seen.item.picture}
    encode_batches(job.config, place, job.crop, todo, lambda: pictures)
    parts = read_parts(place.parts)
    names = {digest: name for digest, name in plan.named.items() if name not in parts.places}
    plan = job.plan(
        {**bad, **{digest: parts.problems[name] for digest, name in names.items() if name in parts.problems}},
        {digest: parts.unread[name] for digest, name in names.items() if name in parts.unread},
    )
    for key in sorted(plan.problems):
        print(f"left out {format_name(key)}: {plan.problems[key]}")
    if not plan.scanned:
        place.clear()
        raise ValueError(f"none of {len(plan.problems)} pictures could be encoded; {place.folder} is as it was")
    refuse_emptying(known, plan, place.folder, prune=job.config.prune)
    rows = len(plan.named) + len(plan.texts)
    with Progress() as progress:
        task = progress.add_task("writing the cache", total=rows)
        manifest = merge_parts(
            plan,
            {**known.places, **parts.places},
            known,
            job.made_by,
            place.new,
            progress=lambda n: progress.advance(task, n),
        )
    if job.config.scale_check:
        refuse_scale(manifest)
    place.put_in_place()
    summarise(place.folder, plan, manifest)
    return plan


def release(config: EncodeSettings, place: CacheWorkspace, crop: Crop) -> None:
    """Tell the processes that were started along that there is nothing to encode."""
    from ldm_train.assembly.encode_batches import encode_batches

    write_planned_batches(place.batches, [])
    encode_batches(config, place, crop, [], dict)


def follow(config: EncodeSettings, place: CacheWorkspace, crop: Crop) -> int:
    """What every further process does: encode its share of the batches that the first one found."""
    from ldm_train.assembly.encode_batches import encode_batches

    def pictures() -> dict[str, EncodedPicture]:
        rows = {row.key: row.digest for batch in read_planned_batches(place.batches) for row in batch.pictures}
        passed: dict[str, EncodedPicture] = {
            key: PictureFile(place.spool / digest) for key, digest in rows.items() if (place.spool / digest).is_file()
        }
        items = build(config.source, "source") if len(passed) < len(rows) else []
        lasting = {item.key: item.picture for item in items if item.key in rows and item.picture and item.picture.lasting}
        return {**lasting, **passed}

    encode_batches(config, place, crop, None, pictures)
    return 0


def refuse_emptying(known: ReusableRows, plan: CachePlan, folder: Path, *, prune: bool) -> None:
    """A share of a disk that is not mounted must not cost what was encoded."""
    if known.manifest is None or {"entries.jsonl"} & known.damaged.keys():
        return
    before = {entry.key: entry.picture for entry in read_entries(folder)}
    keys = {seen.item.key for seen in plan.scanned}
    gone = sorted(key for key, digest in before.items() if key not in keys and digest not in plan.named)
    if len(gone) > MOST_DROPPED * len(before) and not prune:
        some = "".join(f"\n  {format_name(key)}: {plan.problems.get(key, 'not in the source any more')}" for key in gone[:5])
        raise ValueError(
            f"{len(gone)} of {len(before)} pictures in {folder} can no longer be had:{some}\n"
            "prune=true drops them; nothing was touched"
        )


def unchanged(known: ReusableRows, plan: CachePlan, made_by: Mapping[str, Json], folder: Path) -> bool:
    """Whether the cache on disk is the one that would be written."""
    if known.manifest is None or known.damaged or any(getattr(known.manifest, k) != v for k, v in made_by.items()):
        return False
    return all((folder / name).read_text(encoding="utf-8") == text for name, text in plan.texts_on_disk().items())


def changes(manifest: Manifest, made_by: Mapping[str, Json], of: str = "") -> list[str]:
    """What made a cache and is different now, in words; of these names alone, if asked."""
    told = describe_differences(asdict(manifest), {"encoding": made_by["encoding"]})
    return [line.replace("the cache has ", "").replace(", this run expects ", " -> ") for line in told if of in line]


def encode_cache(config: EncodeSettings) -> int:
    """Encode what a config names; return 1 if it is strict and pictures were left out, else 0.

    Raises:
        ValueError: settings that contradict each other, no usable picture, or a cache that would lose much of what it has.
    """
    refuse_settings(config)
    refuse_processes(config)
    if config.trainer.precision != "32-true":
        raise ValueError(
            f"trainer.precision={config.trainer.precision}: encoding computes in 32-true alone, so that a cache has one "
            "meaning; dtype sets the type that is stored"
        )
    if config.text_encoder.get("classes", ()) is None and (
        config.trainer.devices != 1 or not is_only_process(num_nodes=config.trainer.num_nodes)
    ):
        raise ValueError("several processes must agree on the classes before they look: give text_encoder.classes=[…]")
    place = CacheWorkspace(Path(config.cache).resolve(), str(config.cache))
    crop = build(config.crop, "crop", image_size=config.image_size)
    if launched_rank() > 0:
        return follow(config, place, crop)
    with place.locked():
        place.start()
        return lead(config, place, crop)
