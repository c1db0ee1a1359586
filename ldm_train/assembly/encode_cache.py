"""Encode captioned pictures into a latent cache: survey the source, plan, encode what is missing, merge, swap it in."""

import math
from collections import ChainMap
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rich.progress import Progress

from ldm_train.assembly.cache_identity import Encoders, describe_encoders
from ldm_train.assembly.capabilities import uses_tf32
from ldm_train.assembly.map_conditions import file_specs, map_specs
from ldm_train.assembly.pixel_formats import fill_channels, read_pixel_format, refuse_pixels
from ldm_train.assembly.quality_warnings import warn_of_lossy_latents
from ldm_train.assembly.source_survey import (
    check_background,
    list_labels,
    name_classes,
    reads_captions,
    refuse_shapes,
    survey_source,
)
from ldm_train.assembly.trainer import refuse_processes
from ldm_train.data.cache.encoding_batches import EncodingBatch, PictureRow, PlannedBatches, write_planned_batches
from ldm_train.data.cache.entries import iterate_entries
from ldm_train.data.cache.manifest import MAPS_KEY, PIXELS_KEY, VERSION_KEY, Manifest, describe_differences
from ldm_train.data.cache.plan import CachePlan, read_undecodable
from ldm_train.data.cache.quality import read_quality
from ldm_train.data.cache.staging import CacheWorkspace, ReusableRows
from ldm_train.data.pictures.crops import Crop
from ldm_train.data.scan.ordered_pictures import ItemsByKey
from ldm_train.data.scan.source_review import group_problems
from ldm_train.data.scan.survey import ScanMemory, Survey
from ldm_train.data.sources.items import Item, PictureFile, format_name
from ldm_train.settings.composition import build
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.util.files import has_content, hidden_path
from ldm_train.util.messages import note, warn
from ldm_train.util.packed_columns import DigestColumn
from ldm_train.util.processes import is_only_process, launched_rank
from ldm_train.util.safe_json import Json

MOST_DROPPED = 0.1


@dataclass(frozen=True)
class EncodingJob:
    """An encoding: its settings, the place of its files, what the old cache holds, and what the source holds."""

    config: EncodeSettings
    place: CacheWorkspace
    crop: Crop
    known: ReusableRows
    found: Survey
    encoders: Encoders

    def plan(self, bad: Mapping[str, str], unread: Mapping[str, str] = MappingProxyType({})) -> CachePlan:
        """Return the plan of the cache without the pictures of these digests."""
        pictures, captions = self.encoders.pictures(self.config, self.crop), self.encoders.captions()
        return CachePlan(self.found, self.crop, pictures=pictures, captions=captions, bad=bad, unread=unread)

    def missing(self, plan: CachePlan, known: Container[str]) -> Iterator[EncodingBatch]:
        """Yield the batches that remain to be encoded if the rows of these names exist."""
        return plan.batches(known, pictures=max(1, self.config.batch_size // self.crop.views))

    @property
    def made_by(self) -> dict[str, Json]:
        return self.encoders.made_by(self.config, self.crop)


def encode_as_first(config: EncodeSettings, place: CacheWorkspace, crop: Crop) -> int:
    """Run the first process: survey the source, plan, encode together with the other processes, and merge."""
    known = ReusableRows.of(place.folder)
    for name, problem in known.damaged.items():
        note(f"{place.folder / name} {problem}: what it held is encoded again")
    remembered = hidden_path(place.folder, ".ldm-train-stat.json")
    memory = ScanMemory(remembered) if config.unchanged_by == "stat" else None
    captioned, specs = reads_captions(config.text_encoder), file_specs(config)
    found = survey_source(config, captioned=captioned, memory=memory, spool=place.spool, specs=specs)
    config = config.with_values(text_encoder=name_classes(config.text_encoder, partial(list_labels, found)))
    tf32 = uses_tf32(config.trainer)
    encoders = describe_encoders(config, known.manifest, cache=place.folder, tf32=tf32)
    job = EncodingJob(config, place, crop, known, found, encoders)
    refuse_shapes(crop.shapes, math.lcm(job.encoders.factor, *(spec.reduced or 1 for spec in map_specs(config))))
    decoded_alike = known.manifest is not None and not any(
        list_changes(known.manifest, job.made_by, f"encoding.pictures.{setting}")
        for setting in (f"{VERSION_KEY}:", MAPS_KEY, PIXELS_KEY)
    )
    bad = read_undecodable(place.folder / "report.json") if decoded_alike and "report.json" not in known.damaged else {}
    plan = job.plan(bad)
    refuse_emptying(known, plan, place.folder, prune=config.prune)
    if not any(job.missing(plan, known.places)) and is_unchanged(known, plan, job.made_by, place.folder):
        if not is_only_process(num_nodes=config.trainer.num_nodes):
            release_followers(config, place, crop)
        place.clear()
        note(f"{len(plan.scanned)} pictures in {place.folder}: nothing changed, nothing to encode")
        for warning in warn_of_lossy_latents(config, read_quality(place.folder).psnr):
            warn(warning)
    else:
        plan = encode_missing(job, plan, bad)
    if plan.problems:
        note(
            f"{len(plan.problems)} left out; {place.folder / 'report.json'} names them"
            + (" (strict=true: exit code 1)" if config.strict else "")
        )
    return 1 if config.strict and plan.problems else 0


def encode_missing(job: EncodingJob, plan: CachePlan, bad: Mapping[str, str]) -> CachePlan:
    """Encode what neither the old cache nor an interrupted encoding holds, and replace the old cache by the new one."""
    from ldm_train.assembly.encode_batches import (
        encode_batches,
        measure_quality,
        print_quality,
        print_summary,
        refuse_scale,
    )
    from ldm_train.data.cache.writer import merge_parts, read_parts

    place, known = job.place, job.known
    if known.manifest is not None and (differences := list_changes(known.manifest, job.made_by)):
        note("encoded anew, since these changed: " + "; ".join(differences))
    parts = read_parts(place.parts)
    if parts.places:
        note(f"{len(parts.places)} pictures and captions were encoded before an interruption")
    there = ChainMap[str, object](parts.places, known.places, parts.problems)  # type: ignore[arg-type]
    todo = write_planned_batches(place.batches, job.missing(plan, there))
    items = ItemsByKey(plan.scanned)
    encoding = encode_batches(job.config, place, job.crop, todo, lambda: items)
    parts = read_parts(place.parts)
    bad_rows, unread = (
        {name: why for name, why in problems.items() if name not in parts.places}
        for problems in (parts.problems, parts.unread)
    )
    plan = job.plan({**bad, **plan.contents_of(bad_rows)}, plan.contents_of(unread))
    for line in group_problems(plan.problems):
        note(f"left out {line}")
    if not plan.scanned:
        place.clear()
        raise ValueError(f"none of {len(plan.problems)} pictures could be encoded; {place.folder} is as it was")
    refuse_emptying(known, plan, place.folder, prune=job.config.prune)
    rows = len(plan.distinct) + len(plan.texts)
    with Progress() as progress:
        task = progress.add_task("writing the cache", total=rows)
        manifest = merge_parts(
            plan,
            ChainMap(parts.places, known.places),  # type: ignore[arg-type]
            known,
            job.made_by,
            place.new,
            progress=lambda n: progress.advance(task, n),
        )
    if job.config.scale_check:
        refuse_scale(manifest)
    quality = measure_quality(job.config, plan, items, encoding, manifest, place.new)
    place.put_in_place()
    print_summary(place.folder, plan, manifest, encoding)
    print_quality(job.config, quality)
    return plan


def release_followers(config: EncodeSettings, place: CacheWorkspace, crop: Crop) -> None:
    """End the other processes if there is nothing to encode."""
    from ldm_train.assembly.encode_batches import encode_batches

    write_planned_batches(place.batches, [])
    encode_batches(config, place, crop, [], dict)


def encode_as_follower(config: EncodeSettings, place: CacheWorkspace, crop: Crop) -> int:
    """Run a further process: encode its share of the batches that the first process planned."""
    from ldm_train.assembly.encode_batches import encode_batches

    def items() -> dict[str, Item]:
        rows = {row.key: row for batch in PlannedBatches(place.batches) for row in batch.pictures}
        passed = {key: item for key, row in rows.items() if (item := find_spooled(row, place.spool)) is not None}
        source = build(config.source, "source") if len(passed) < len(rows) else []
        lasting = {item.key: item for item in source if item.key in rows and item.picture and item.picture.lasting}
        return {**lasting, **passed}

    encode_batches(config, place, crop, None, items)
    return 0


def find_spooled(row: PictureRow, spool: Path) -> Item | None:
    """Return a picture of a stream with its maps, of which the first process stored copies; None if it did not."""
    if not (spool / row.digest).is_file():
        return None
    maps = {name: PictureFile(spool / digest) for name, digest in row.maps.items()}
    return Item(row.key, PictureFile(spool / row.digest), (), row.key, maps=maps)


def refuse_emptying(known: ReusableRows, plan: CachePlan, folder: Path, *, prune: bool) -> None:
    """Raise if the new cache would lose many pictures of the old one, as when a disk is not mounted."""
    if known.manifest is None or {"entries.jsonl"} & known.damaged.keys():
        return
    before = DigestColumn.of(entry.picture for entry in iterate_entries(folder))
    still = np.isin(before.array(), DigestColumn.of(seen.digest for seen in plan.scanned).array())
    lost = zip(iterate_entries(folder), still.tolist(), strict=True)
    gone = sorted(entry.key for entry, there in lost if not there and plan.scanned.find(entry.key) is None)
    if len(gone) > MOST_DROPPED * len(before) and not prune:
        some = "".join(f"\n  {format_name(key)}: {plan.problems.get(key, 'not in the source any more')}" for key in gone[:5])
        raise ValueError(
            f"{len(gone)} of {len(before)} pictures in {folder} can no longer be had:{some}\n"
            "prune=true drops them; nothing was touched"
        )


def is_unchanged(known: ReusableRows, plan: CachePlan, made_by: Mapping[str, Json], folder: Path) -> bool:
    """Return whether the cache on disk is the one that would be written."""
    if known.manifest is None or known.damaged or any(getattr(known.manifest, k) != v for k, v in made_by.items()):
        return False
    return all(has_content(folder / name, texts) for name, texts in plan.texts_on_disk().items())


def list_changes(manifest: Manifest, made_by: Mapping[str, Json], of: str = "") -> list[str]:
    """Return what made a cache and is different now, as messages; only those with `of` in them."""
    differences = describe_differences(asdict(manifest), {"encoding": made_by["encoding"]})
    return [line.replace("the cache has ", "").replace(", this run expects ", " -> ") for line in differences if of in line]


def encode_cache(config: EncodeSettings) -> int:
    """Encode what a config names; return 1 if it is strict and pictures were left out, else 0.

    Raises:
        ValueError: settings that contradict each other, no usable picture, or a cache that would lose much of what it has.
    """
    check_background(config)
    pixels = read_pixel_format(config.pixels)
    config = config.with_values(autoencoder=fill_channels(config.autoencoder, pixels))
    refuse_pixels(config, pixels)
    map_specs(config)  # raises for conditions that do not go together, before anything is written
    refuse_processes(config)
    if config.trainer.precision != "32-true":
        raise ValueError(
            f"trainer.precision={config.trainer.precision}: encoding computes in 32-true alone, so that a cache has one "
            "meaning; dtype sets the type that is stored"
        )
    shared = config.trainer.devices != 1 or not is_only_process(num_nodes=config.trainer.num_nodes)
    if shared and config.text_encoder.get("classes", ()) is None:
        raise ValueError("several processes must agree on the classes before they look: give text_encoder.classes=[…]")
    place = CacheWorkspace(Path(config.cache).resolve(), str(config.cache), shared=shared)
    crop = build(config.crop, "crop", image_size=config.image_size)
    if launched_rank() > 0:
        return encode_as_follower(config, place, crop)
    with place.locked():
        place.start()
        return encode_as_first(config, place, crop)
