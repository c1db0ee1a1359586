"""Estimate the disk space, memory and time that encoding and training will take."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import torch

from ldm_train.assembly.encoding_memory import EncodingMemory, estimate_encoding_memory, find_memory_problem
from ldm_train.assembly.map_conditions import map_specs
from ldm_train.assembly.parts import Parts
from ldm_train.assembly.training_module import training_module
from ldm_train.commands.check.reconstruction import Pace
from ldm_train.commands.check.trials import CPU, Attempts, build_geometry, build_network_on, count_devices
from ldm_train.conditioners.caption_encoder import count_stored, find_stored_shape
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.pictures.crops import Size
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.training.cost import CacheBytes, RowShapes, StepBytes, Tried, cache_bytes, free_memory, step_bytes, try_step
from ldm_train.training.ema.ema import EMA
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.types import Autoencoder, CaptionBatch, LatentBatch, Moments

TRIED_WHOLE = 100e6  # parameters
WORK_BYTES = 16  # per trained parameter in float32: weight, gradient, two moments
TRUE_BYTES = {"bf16-true": 2, "16-true": 2, "64-true": 8}  # bytes of a number by the Trainer's precision; 4 with others


@dataclass(frozen=True)
class Disk:
    """Disk space of a cache: the bytes that it needs, and the bytes free in the existing folder above it."""

    cache: CacheBytes
    folder: str
    free: int


@dataclass(frozen=True)
class StepEstimate:
    """The cost of a training step on one device.

    Args:
        parameters, trained: numbers of parameters of network and text encoder: all, and those that are trained.
        memory: bytes without the activations.
        checkpoint: bytes of one checkpoint on disk.
        autoencoder: bytes of the autoencoder's weights, which stay on the device to draw the run's pictures.
        rows: examples per forward pass.
        accumulation: forward passes per step.
        tried: a step measured on this machine; None if none could be measured.
        device: type of the device that it was measured on.
    """

    parameters: int
    trained: int
    memory: StepBytes
    checkpoint: int
    autoencoder: int
    rows: int
    accumulation: int
    tried: Tried | None
    device: str

    @property
    def activations(self) -> int | None:
        return None if self.tried is None else self.tried.activations * self.rows // self.tried.examples

    @property
    def seconds(self) -> float | None:
        """Return the seconds of an optimizer step, or None if none could be measured."""
        return None if self.tried is None else self.tried.step(self.rows, self.accumulation)


def measure_row_shapes(settings: CheckSettings, parts: Parts) -> RowShapes:
    """Return the shapes of a cache's rows, from one small encoded image."""
    text, autoencoder = parts.text_encoder, parts.autoencoder
    side = 8 * autoencoder.factor
    with torch.inference_mode():
        posterior = autoencoder.encode(torch.zeros(1, 3, side, side)).log_variance is not None
    return RowShapes(
        channels=autoencoder.channels,
        map_channels=sum(spec.count_stored(autoencoder.channels, autoencoder.factor) for spec in map_specs(settings)),
        factor=autoencoder.factor,
        posterior=posterior,
        moment_bytes=getattr(torch, settings.dtype).itemsize,
        tokens=text.tokenize([""]).shape[1],
        embedding=count_stored(text),
    )


def estimate_disk(settings: CheckSettings, plan: CachePlan, rows: RowShapes) -> Disk:
    """Return the disk space that the cache needs, and the space that is free."""
    wanted = Path(settings.cache).absolute() if isinstance(settings.cache, str) else Path.cwd()
    folder = next(path for path in (wanted, *wanted.parents) if path.is_dir())
    return Disk(cache_bytes(plan, rows), str(folder), shutil.disk_usage(folder).free)


def estimate_memory(
    settings: CheckSettings, plan: CachePlan, autoencoder: Autoencoder, device: torch.device, attempt: Attempts
) -> EncodingMemory:
    """Return the memory that encoding all pictures takes, and add a problem if there is not so much."""
    size = settings.encode_batch_size
    batches = plan.batches((), pictures=max(1, size // plan.crop.views))
    memory = estimate_encoding_memory(
        autoencoder,
        batches,
        plan.crop,
        batch_size=size,
        workers=settings.workers,
        device=device,
        specs=map_specs(settings),
    )
    problem = find_memory_problem(memory, batch_size=f"encode_batch_size={size}", device=device)
    attempt.reasons += [problem] if problem else []
    return memory


def estimate_encoding(settings: CheckSettings, plan: CachePlan, pace: Pace) -> float:
    """Return the seconds to encode all distinct pictures on all devices."""
    return len(plan.distinct) * (pace.reading + plan.crop.views * pace.encoding) / count_devices(settings)


def estimate_training(
    settings: CheckSettings,
    parts: Parts,
    module: NoisePredictorTraining,
    plan: CachePlan,
    rows: RowShapes,
    device: torch.device,
) -> StepEstimate:
    """Return the cost of a step from the shapes, and from a measured step if this machine has the memory for one."""
    counts = [p.numel() for p in module.parameters()]
    sizes = [p.numel() for p in module.trained_parameters().values()]
    trained, largest = sum(sizes), max(sizes)
    ema: EMA = build(settings.ema, "ema")
    division, bytes_each = build_geometry(settings), TRUE_BYTES.get(settings.trainer.precision, 4)
    whole = step_bytes(module, build(settings.optimizer, "optimizer"), averages=len(ema.profiles)).of_numbers(bytes_each)
    estimate = StepEstimate(
        parameters=sum(counts),
        trained=trained,
        memory=replace(
            whole,
            ema=0 if ema.offload and device.type != "cpu" else whole.ema,
            gradients=whole.gradients * largest // trained if settings.fused_backward else whole.gradients,
        ),
        checkpoint=whole.gradients + whole.optimizer + whole.ema,  # weights are as large as their gradients
        autoencoder=sum(p.nbytes for p in parts.autoencoder.parameters()),  # type: ignore[attr-defined]
        rows=division.rows,
        accumulation=division.accumulation,
        tried=None,
        device=device.type,
    )
    free = free_memory(device)
    if not settings.measure or trained * WORK_BYTES > free / 2 or bytes_each != 4:
        return estimate
    shape = max(plan.rows, key=lambda shape: shape[0] * shape[1])
    network = build_network_on(settings, parts.autoencoder, parts.text_encoder, parts.conditions, device=CPU)
    example_rows = replace(rows, embedding=0) if settings.tags.shuffle or settings.tags.dropout else rows  # encoded anew
    real = training_module(settings, replace(parts, network=network)).to(device)
    tried = try_step(
        real,
        lambda count: make_example_batch(count, example_rows, shape, plan.texts, parts, device),
        rows=division.rows,
        memory=(free - trained * WORK_BYTES) // 2,
        precision=settings.trainer.precision,
        ema=ema if trained < TRIED_WHOLE else None,
    )
    real.to("cpu")
    return replace(estimate, tried=tried)


def make_example_batch(
    count: int,
    rows: RowShapes,
    shape: Size,
    texts: Sequence[str],
    parts: Parts,
    device: torch.device,
) -> LatentBatch:
    """Return a batch with the shapes of training: zeros as latents and conditions, and captions of the source."""
    tokens = parts.text_encoder.tokenize(list(islice(cycle(texts), count))).to(device)
    sides = (shape[0] // rows.factor, shape[1] // rows.factor)
    mean = torch.zeros(count, rows.channels, *sides, device=device)
    shape_of_text = find_stored_shape(parts.text_encoder) if rows.embedding else None
    embeddings = None if shape_of_text is None else torch.zeros(count, *shape_of_text, device=device, dtype=torch.half)
    return LatentBatch(
        torch.arange(count),
        Moments(mean, torch.zeros_like(mean) if rows.posterior else None),
        CaptionBatch(tokens, embeddings),
        {name: given.to(device) for name, given in parts.conditions.absent(count, size=shape, latent_size=sides).items()},
    )
