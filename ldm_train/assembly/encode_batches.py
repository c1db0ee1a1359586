"""The part of `ldm-train encode` that needs models: batches through the autoencoder and the text encoder, on all devices."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch

from ldm_train.assembly.capabilities import set_tf32, uses_tf32
from ldm_train.assembly.cut_texts import warn_of_cut_captions
from ldm_train.assembly.decoded_sample import DecodedPicture, decode_sample, describe_quality, write_quality
from ldm_train.assembly.encoding_memory import estimate_encoding_memory, find_memory_problem
from ldm_train.assembly.map_conditions import map_specs
from ldm_train.assembly.own_part_probes import probe_encoders
from ldm_train.assembly.parts import choose_device
from ldm_train.assembly.pixel_formats import read_pixel_format
from ldm_train.assembly.quality_warnings import warn_of_lossy_latents
from ldm_train.assembly.trainer import silence_lightning, trainer_options
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.batches.holding_out import count_held_out, warn_of_few_held_out
from ldm_train.data.cache.encoding_batches import EncodingBatch, PlannedBatches
from ldm_train.data.cache.manifest import Manifest
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.cache.quality import RECONSTRUCTIONS, Quality
from ldm_train.data.cache.shards import channel_statistics
from ldm_train.data.cache.staging import CacheWorkspace
from ldm_train.data.pictures.crops import Crop
from ldm_train.data.sources.items import Item
from ldm_train.settings.composition import build
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.training.encoding import Batches, Encoding, EncodingData, WriteParts
from ldm_train.training.rendering import Rendering
from ldm_train.types import Autoencoder
from ldm_train.util.interrupts import interruptible
from ldm_train.util.messages import note, warn
from ldm_train.util.processes import is_only_process


def encode_batches(
    config: EncodeSettings,
    place: CacheWorkspace,
    crop: Crop,
    todo: Sequence[EncodingBatch] | None,
    items: Callable[[], Mapping[str, Item]],
) -> Encoding | None:
    """Encode the batches that the first process wrote down, each process its share, as parts; return what encoded them.

    Args:
        todo: the batches, as the first process knows them already.
        items: the pictures with their maps by key; called once all processes are there.
    """
    if todo is not None and not todo and is_only_process(num_nodes=config.trainer.num_nodes):
        return None
    silence_lightning()
    set_tf32(uses_tf32(config.trainer))
    rows = max(1, config.batch_size // crop.views)

    def judge(means: torch.Tensor) -> None:
        """Raise if the latents of the first pictures are far from a deviation of 1, with some slack for few pictures."""
        problem = Scaling.of(autoencoder).problem(*channel_statistics(means), slack=2)
        if config.scale_check and autoencoder.factor > 1 and problem is not None:
            raise ValueError(f"{problem}\nscale_check=false encodes nevertheless")

    def read() -> Batches:
        rendering = Rendering(
            items(),
            crop,
            background=config.background,
            max_pixels=config.max_pixels,
            specs=specs,
            factor=autoencoder.factor,
            pixels=read_pixel_format(config.pixels),
        )
        return Batches(PlannedBatches(place.batches), rendering, pictures=rows)

    autoencoder, specs = build(config.autoencoder, "autoencoder"), map_specs(config)
    text_encoder = build(config.text_encoder, "text_encoder")
    probe_encoders(autoencoder, text_encoder, config)
    refuse_memory(config, crop, todo or [], autoencoder)
    encoding = Encoding(autoencoder, text_encoder, dtype=getattr(torch, config.dtype), specs=specs).eval()
    trainer = pl.Trainer(
        logger=False,
        callbacks=[WriteParts(place.parts, total=len(todo or []), judge=judge)],
        enable_progress_bar=False,
        use_distributed_sampler=False,
        inference_mode=True,
        **trainer_options(config.trainer),  # type: ignore[arg-type]
    )
    with interruptible():
        trainer.predict(encoding, EncodingData(read, workers=config.workers), return_predictions=False)
    return encoding


def refuse_memory(config: EncodeSettings, crop: Crop, todo: Sequence[EncodingBatch], autoencoder: Autoencoder) -> None:
    """Raise if this machine has not the memory to encode these batches.

    Raises:
        ValueError: it has not.
    """
    device = choose_device("cpu" if config.trainer.accelerator == "cpu" else "auto")
    memory = estimate_encoding_memory(
        autoencoder,
        todo,
        crop,
        batch_size=config.batch_size,
        workers=config.workers,
        device=device,
        specs=map_specs(config),
    )
    if problem := find_memory_problem(memory, batch_size=f"batch_size={config.batch_size}", device=device):
        raise ValueError(problem)


def refuse_scale(manifest: Manifest) -> None:
    """Raise if the latents of a new cache have a scale on which a network would train badly."""
    problem = Scaling(manifest.shift, manifest.scale).problem(manifest.mean, manifest.std)
    if problem is not None and manifest.factor > 1:
        raise ValueError(f"{problem}\nscale_check=false encodes nevertheless; what is encoded is kept for that")


def measure_quality(
    config: EncodeSettings,
    plan: CachePlan,
    items: Mapping[str, Item],
    encoding: Encoding | None,
    manifest: Manifest,
    folder: Path,
) -> Quality:
    """Decode a sample of the pictures, and write into a cache's folder what its latents keep of them.

    Args:
        encoding: that encoded the pictures; None if no picture or caption was new.
        manifest: of the cache.
    """
    decoded: list[DecodedPicture] = []
    if manifest.factor > 1:
        dtype = getattr(torch, config.dtype)
        encoding = encoding or Encoding(build(config.autoencoder, "autoencoder"), None, dtype=dtype).eval()
        device = choose_device("cpu" if config.trainer.accelerator == "cpu" else "auto")
        rendering = Rendering(
            items,
            plan.crop,
            background=config.background,
            max_pixels=config.max_pixels,
            pixels=read_pixel_format(config.pixels),
        )
        decoded = decode_sample(plan, rendering, encoding.to(device))
    quality = describe_quality(plan, decoded, manifest)
    write_quality(folder, quality, decoded)
    return quality


def print_quality(config: EncodeSettings, quality: Quality) -> None:
    """Print how well pictures are decoded, with advice if that is badly."""
    if quality.psnr is None:
        return
    note(
        f"  {len(quality.sample)} of them were decoded again with a PSNR of {quality.psnr:.1f} dB: "
        f"see {Path(config.cache) / RECONSTRUCTIONS}"
    )
    for warning in warn_of_lossy_latents(config, quality.psnr):
        warn(warning)


def print_summary(folder: Path, plan: CachePlan, manifest: Manifest, encoding: Encoding | None) -> None:
    """Print what is in the cache now.

    Args:
        encoding: that encoded the pictures and captions; None if none was new.
    """
    deviation = Scaling(manifest.shift, manifest.scale).deviation(manifest.mean, manifest.std)
    chosen = 0 if manifest.held_out else count_held_out((seen.digest for seen in plan.scanned), None)
    held_out = f"train will hold out {chosen} of them" if chosen else f"{manifest.held_out} held out"
    note(
        f"{manifest.entries} pictures in {folder} ({held_out}, {manifest.captions - 1} captions); "
        f"the latents' deviation after scaling is {deviation:.2f}"
    )
    if len(plan.distinct) < len(plan.scanned):
        note(f"  {len(plan.scanned) - len(plan.distinct)} of them are copies or repeats of others, and share their latents")
    for warning in warn_of_few_held_out(manifest.held_out or chosen, manifest.entries, share=None):
        warn(warning)
    lost = plan.lost()
    for bucket, (count, share) in lost.items() if len(lost) > 1 else []:
        note(f"  {bucket}: {count} pictures, of which the crop cuts away {share:.1%}")
    text_encoder = None if encoding is None else encoding.text_encoder
    for line in [] if text_encoder is None else warn_of_cut_captions(text_encoder, [text for text in plan.texts if text]):
        warn(line)
