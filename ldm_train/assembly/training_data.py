"""Open what a run trains on: caches that fit its settings, or a source that is encoded on the fly."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.progress import DownloadColumn, Progress

from ldm_train.assembly.cache_identity import describe_encoders, restore_part
from ldm_train.assembly.condition_probes import probe_reading
from ldm_train.assembly.decoded_sample import decode_sample, describe_quality
from ldm_train.assembly.drawn_tags import draw_tags
from ldm_train.assembly.launched_share import launched_share
from ldm_train.assembly.map_conditions import file_specs, map_specs, suggest_fitting_settings, words_of_maps
from ldm_train.assembly.number_columns import fill_numbers, list_column, list_fields, read_first_fields
from ldm_train.assembly.own_part_probes import probe_parts
from ldm_train.assembly.parts import Parts, build_parts
from ldm_train.assembly.pixel_formats import (
    describe_pixels,
    fill_channels,
    read_pixel_format,
    refuse_measuring,
    refuse_pixels,
    restore_pixels,
    words_of_pixels,
)
from ldm_train.assembly.source_survey import (
    check_background,
    list_labels,
    name_classes,
    reads_captions,
    refuse_shapes,
    survey_source,
)
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.batches.loss_weights import read_loss_weights
from ldm_train.data.cache.joined_caches import join_caches
from ldm_train.data.cache.manifest import MAPS_KEY, PIXELS_KEY, Manifest, check_cache_matches, to_canonical_json
from ldm_train.data.cache.plan import CachePlan, parse_bucket
from ldm_train.data.cache.reader import EncodedExamples, LatentCache, open_caches
from ldm_train.data.cache.shards import channel_statistics
from ldm_train.data.cache.verification import ALONE, CONTENT, Share, verify_cache
from ldm_train.data.pictures.crops import Crop
from ldm_train.data.pictures.map_values import describe_specs
from ldm_train.data.scan.ordered_pictures import ItemsByKey
from ldm_train.data.scan.source_review import group_problems
from ldm_train.data.sources.items import Item
from ldm_train.settings.composition import build
from ldm_train.settings.config_file import shortest_words
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.encoding import Encoding
from ldm_train.training.on_the_fly import LivePictures, OnTheFly
from ldm_train.training.rendering import Rendering
from ldm_train.util.messages import note
from ldm_train.util.processes import launched_rank
from ldm_train.util.safe_json import Json
from ldm_train.util.text import as_word

FEW = 16  # pictures of one forward pass, where a GPU's memory is the network's


def open_data(config: TrainSettings) -> tuple[TrainSettings, Parts, CachedLatents, str]:
    """Return the settings filled in from the data, the parts, the batches, and a name for the content that a run trains on.

    Raises:
        ValueError: there is no cache and no source, a cache is damaged, or something else made it than the run expects.
    """
    if config.cache is None:
        return open_source(config)
    if config.source is not None:
        raise ValueError("train takes a cache, or with cache=null a source that it encodes on the fly; not both")
    caches = open_caches(config.cache)
    verify_caches(caches, config.verify, share=launched_share(config.trainer.timeout_minutes))
    latents = join_caches(caches)
    config = fill_numbers(fill_from_cache(config, caches[0]), latents.column, partial(read_first_fields, latents))
    refuse_measuring(config, read_pixel_format(config.pixels))
    parts = build_parts(config)
    probe_parts(parts, config)
    refuse_unfit(config, parts, caches)
    refuse_shapes([parse_bucket(bucket) for cache in caches for bucket in cache.manifest.buckets], parts.divisor)
    probe_reading(parts.conditions.each, config.conditions, latents)
    return config, parts, make_batches(config, latents, parts), " ".join(cache.manifest.fingerprint for cache in caches)


def verify_caches(caches: Sequence[LatentCache], how: str = CONTENT, *, share: Share | None = ALONE) -> None:
    """Compare the files of the caches with their checksums, with a progress bar if they are large.

    Args:
        how: all files ("content"), those whose length or times changed since they were read ("stat"), or "none".
        share: this process's; None if another one compares them all.
    """
    if share is None:
        return
    size = sum((cache.folder / name).stat().st_size for cache in caches for name in cache.manifest.digests()) // share.count
    hidden = size < 2**30 or share.rank > 0
    with Progress(*Progress.get_default_columns(), DownloadColumn(), disable=hidden) as progress:
        task = progress.add_task("verifying the cache", total=size)
        for cache in caches:
            verify_cache(cache, how, share=share, progress=lambda count: progress.advance(task, count))


def fill_from_cache(config: TrainSettings, cache: LatentCache) -> TrainSettings:
    """Return settings with what they leave to the cache: the autoencoder, the text encoder, the size."""
    missing = [part for part in ("autoencoder", "text_encoder") if getattr(config, part) is None]
    values: dict[str, object] = {part: restore_part(cache.manifest, part, cache=cache.folder) for part in missing}
    size = cache.manifest.image_size if config.image_size is None else config.image_size
    made_of = restore_pixels(cache.manifest.encoding["pictures"])
    pixels = made_of if config.pixels.channels is None else config.pixels
    values.setdefault("autoencoder", fill_channels(config.autoencoder, read_pixel_format(pixels)))
    return config.with_values(**values, image_size=size, pixels=pixels)


def refuse_unfit(config: TrainSettings, parts: Parts, caches: Sequence[LatentCache], *, with_maps: bool = True) -> None:
    """Raise if other encoders or settings made a cache than this run expects, or if its latents have a wrong scale.

    Args:
        with_maps: whether the cache must have the maps of the run's conditions, and no others.
    """
    assert config.autoencoder is not None
    assert config.text_encoder is not None
    text, autoencoder = parts.text_encoder, parts.autoencoder
    expected: dict[str, Json] = {
        "image_size": config.image_size,
        "autoencoder": autoencoder.identity,
        "shift": autoencoder.shift,
        "scale": autoencoder.scale,
        "text_encoder": text.identity,
        PIXELS_KEY: describe_pixels(read_pixel_format(config.pixels)).get(PIXELS_KEY),
        **({MAPS_KEY: describe_specs(map_specs(config))} if with_maps else {}),
    }
    mend = [
        f"image_size={config.image_size}",
        *shortest_words("autoencoder", config.autoencoder.as_plain()),
        *shortest_words("text_encoder", config.text_encoder.as_plain()),
        *words_of_maps(config),
        *words_of_pixels(config.pixels),
    ]
    for cache in caches:
        words_of_run, fit = mend + words_of_encoding(cache.manifest), suggest_fitting_settings(config, cache.manifest)
        check_cache_matches(cache.manifest, expected, cache=cache.folder, mend=words_of_run, fit=fit)
        problem = Scaling.of(autoencoder).problem(cache.manifest.mean, cache.manifest.std)
        if config.scale_check and autoencoder.factor > 1 and problem is not None:
            raise ValueError(f"cache {cache.folder}: {problem}\nscale_check=false trains nevertheless")


def words_of_encoding(manifest: Manifest) -> list[str]:
    """Return the words of `encode` that prepare pictures as they were prepared for a cache."""
    made = manifest.encoding["pictures"]
    assert isinstance(made, dict)
    crop = made["crop"]
    assert isinstance(crop, dict)
    own = [f"crop.{name}={value}".replace(" ", "") for name, value in crop.items() if name not in ("kind", "image_size")]
    return [f"crop={crop['kind']}", *own, as_word("background", made["background"]), f"dtype={made['dtype']}"]


def make_batches(config: TrainSettings, latents: EncodedExamples, parts: Parts) -> CachedLatents:
    """Return the batches of one cache or of several."""
    return CachedLatents(
        latents,
        **batch_settings(config, latents, parts),
        repeats=config.cache_repeats,
        shares=config.cache_shares,
    )


def batch_settings(config: TrainSettings, latents: EncodedExamples, parts: Parts) -> dict[str, Any]:
    """Return what decides how batches are made."""
    names = ("batch_size", "micro_batch_size", "seed", "caption_dropout", "held_out", "workers", "loss_mask")
    return {name: getattr(config, name) for name in names} | {
        "conditions": parts.conditions.each,
        "tagged": draw_tags(config, parts.text_encoder),
        "loss_weights": read_loss_weights(latents, config.loss_weight, config.cache_loss_weights),
    }


def open_source(config: TrainSettings) -> tuple[TrainSettings, Parts, CachedLatents, str]:
    """Open a source that is encoded on the fly; returns what `open_data` returns."""
    needed = [name for name in ("source", "autoencoder", "text_encoder", "image_size") if getattr(config, name) is None]
    if needed:
        raise ValueError(f"without a cache, train encodes on the fly and needs {', '.join(f'{name}=…' for name in needed)}")
    if config.cache_repeats is not None or config.cache_shares is not None:
        raise ValueError("cache_repeats and cache_shares are of caches; there is none")
    if config.cache_loss_weights is not None:
        raise ValueError("cache_loss_weights is of caches; there is none. loss_weight=COLUMN weighs single pictures")
    if config.workers:
        raise ValueError(f"workers={config.workers} are of a cache; pictures encoded on the fly are decoded by threads")
    assert config.source is not None
    if config.source.get("streaming"):
        raise ValueError("source.streaming=true: a stream passes only once; encode a cache, or set source.streaming=false")
    check_background(config)
    pixels = read_pixel_format(config.pixels)
    config = config.with_values(autoencoder=fill_channels(config.autoencoder, pixels))
    refuse_pixels(config, pixels)
    refuse_measuring(config, pixels)
    crop = build(config.crop, "crop", image_size=config.image_size)
    found = survey_source(config, captioned=reads_captions(config.text_encoder), specs=file_specs(config))
    assert config.text_encoder is not None
    config = config.with_values(text_encoder=name_classes(config.text_encoder, partial(list_labels, found)))
    config = fill_numbers(config, partial(list_column, found), partial(list_fields, found))
    parts = build_parts(config)
    probe_parts(parts, config)
    refuse_shapes(crop.shapes, parts.divisor)
    assert config.autoencoder is not None
    assert config.text_encoder is not None
    encoders = describe_encoders(config, None, cache=Path.cwd())
    plan = CachePlan(found, crop, pictures=encoders.pictures(config, crop), captions=encoders.captions(), bad={})
    for line in group_problems(plan.problems):
        note(f"left out {line}")
    rendering = render_source(config, ItemsByKey(plan.scanned), crop, parts)
    live = open_live_pictures(config, plan, rendering)
    probe_reading(parts.conditions.each, config.conditions, live)
    if config.scale_check and parts.autoencoder.factor > 1:
        refuse_live_scale(live, Scaling.of(parts.autoencoder))
    made_by = {
        name: value for name, value in encoders.made_by(config, crop).items() if name not in ("autoencoder", "text_encoder")
    }
    content = hashlib.sha256(to_canonical_json(made_by).encode())
    for part in chain.from_iterable(plan.texts_on_disk().values()):
        content.update(part.encode())
    return (
        config,
        parts,
        OnTheFly(live, **batch_settings(config, live, parts)),
        content.hexdigest(),
    )


def render_source(config: TrainSettings, items: Mapping[str, Item], crop: Crop, parts: Parts) -> Rendering:
    """Return what decodes the pictures of a source, by key, and their maps."""
    return Rendering(
        items,
        crop,
        background=config.background,
        max_pixels=config.max_pixels,
        specs=map_specs(config),
        factor=parts.autoencoder.factor,
        pixels=read_pixel_format(config.pixels),
    )


def open_live_pictures(config: TrainSettings, plan: CachePlan, rendering: Rendering) -> LivePictures:
    """Return the pictures of a plan, encoded as they are asked for, after trying a few of them."""
    assert config.autoencoder is not None
    assert config.text_encoder is not None
    # Its own encoders: the network's text encoder may be in training.
    encoding = Encoding(
        build(config.autoencoder, "autoencoder"),
        build(config.text_encoder, "text_encoder"),
        dtype=getattr(torch, config.dtype),
        at_once=FEW,
        specs=rendering.specs,
    ).eval()
    decoded = decode_sample(plan, rendering, encoding) if launched_rank() == 0 else []
    return LivePictures(plan, rendering, encoding, describe_quality(plan, decoded))


def refuse_live_scale(live: LivePictures, scaling: Scaling) -> None:
    """Raise if the latents of a few pictures have a wrong scale; without a cache there are no statistics of all."""
    alike = (live.index.bucket == live.index.bucket[0]).nonzero()[:FEW, 0]
    examples = live.readable(alike, alike)
    means = live.moments(examples, torch.zeros_like(examples)).mean
    problem = scaling.problem(*channel_statistics(means[:, None]), slack=2)
    if problem is not None:
        raise ValueError(f"{problem}\nscale_check=false trains nevertheless")
