"""What encoding and training of a config will take of disk, memory, time and money."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import torch

from ldm_train.assembly.parts import Parts
from ldm_train.assembly.training_module import training_module
from ldm_train.commands.check.reconstruction import Pace
from ldm_train.commands.check.trials import CPU, build_network, devices, geometry
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.pictures.crops import Size
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.training.cost import CacheBytes, RowShapes, StepBytes, Tried, cache_bytes, free_memory, step_bytes, try_step
from ldm_train.training.ema.ema import EMA
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.types import CaptionBatch, LatentBatch, Moments

TRIED_WHOLE = 100e6  # parameters
WORK_BYTES = 16  # of a trained parameter: weight, gradient, two moments
TRUE_BYTES = {"bf16-true": 2, "16-true": 2, "64-true": 8}  # of a number, by the Trainer's precision; 4 with others


@dataclass(frozen=True)
class Disk:
    """What the cache will need, and what is free where it will lie."""

    cache: CacheBytes
    folder: str
    free: int


@dataclass(frozen=True)
class Training:
    """A training step on one device.

    Args:
        parameters, trained: how many, of network and text encoder.
        memory: without the activations.
        checkpoint: bytes of one on disk.
        autoencoder: bytes of its weights, which draw the run's pictures.
        rows: examples of one forward pass.
        accumulation: forward passes of a step.
        tried: a step that was measured on this machine; None where none could be.
        device: what it was measured on.
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
        """Of an optimizer step."""
        return None if self.tried is None else self.tried.step(self.rows, self.accumulation)


def row_shapes(config: CheckSettings, parts: Parts) -> RowShapes:
    text, autoencoder = parts.text_encoder, parts.autoencoder
    side = 8 * autoencoder.factor
    with torch.inference_mode():
        posterior = autoencoder.encode(torch.zeros(1, 3, side, side)).log_variance is not None
    return RowShapes(
        channels=autoencoder.channels,
        factor=autoencoder.factor,
        posterior=posterior,
        moment_bytes=getattr(torch, config.dtype).itemsize,
        tokens=text.tokenize([""]).shape[1],
        width=None if text.trained else text.context_width,
    )


def disk(config: CheckSettings, plan: CachePlan, rows: RowShapes) -> Disk:
    wanted = Path(config.cache).absolute() if isinstance(config.cache, str) else Path.cwd()
    folder = next(path for path in (wanted, *wanted.parents) if path.is_dir())
    return Disk(cache_bytes(plan, rows), str(folder), shutil.disk_usage(folder).free)


def encoding_seconds(config: CheckSettings, plan: CachePlan, pace: Pace) -> float:
    """Of all distinct pictures."""
    return len(plan.named) * (pace.reading + plan.crop.views * pace.encoding) / devices(config)


def training(
    config: CheckSettings,
    parts: Parts,
    module: NoisePredictorTraining,
    plan: CachePlan,
    rows: RowShapes,
    device: torch.device,
) -> Training:
    """From shapes, and from a step on this machine where it bears one."""
    counts = [p.numel() for p in module.parameters()]
    sizes = [p.numel() for p in module.trained_parameters().values()]
    trained, largest = sum(sizes), max(sizes)
    ema: EMA = build(config.ema, "ema")
    division, bytes_each = geometry(config), TRUE_BYTES.get(config.trainer.precision, 4)
    whole = step_bytes(module, build(config.optimizer, "optimizer"), averages=len(ema.profiles)).of_numbers(bytes_each)
    told = Training(
        parameters=sum(counts),
        trained=trained,
        memory=replace(
            whole,
            ema=0 if ema.offload and device.type != "cpu" else whole.ema,
            gradients=whole.gradients * largest // trained if config.fused_backward else whole.gradients,
        ),
        checkpoint=whole.gradients + whole.optimizer + whole.ema,  # weights are as large as their gradients
        autoencoder=sum(p.nbytes for p in parts.autoencoder.parameters()),  # type: ignore[attr-defined]
        rows=division.rows,
        accumulation=division.accumulation,
        tried=None,
        device=device.type,
    )
    free = free_memory(device)
    if not config.measure or trained * WORK_BYTES > free / 2 or bytes_each != 4:
        return told
    shape = max(plan.rows, key=lambda shape: shape[0] * shape[1])
    network = build_network(config, parts.autoencoder, parts.text_encoder, device=CPU)
    real = training_module(config, replace(parts, network=network)).to(device)
    tried = try_step(
        real,
        lambda count: examples(count, rows, shape, plan.texts, parts.text_encoder, device),
        rows=division.rows,
        memory=(free - trained * WORK_BYTES) // 2,
        precision=config.trainer.precision,
        ema=ema if trained < TRIED_WHOLE else None,
    )
    real.to("cpu")
    return replace(told, tried=tried)


def examples(
    count: int,
    rows: RowShapes,
    shape: Size,
    texts: Sequence[str],
    text_encoder: TextEncoder | ClassLabels,
    device: torch.device,
) -> LatentBatch:
    """A batch like those of training: of latents that are all alike, with captions of the source."""
    tokens = text_encoder.tokenize(list(islice(cycle(texts), count))).to(device)
    mean = torch.zeros(count, rows.channels, *(side // rows.factor for side in shape), device=device)
    embeddings = None if rows.width is None else torch.zeros(*tokens.shape, rows.width, device=device, dtype=torch.half)
    return LatentBatch(
        torch.arange(count),
        Moments(mean, torch.zeros_like(mean) if rows.posterior else None),
        CaptionBatch(tokens, embeddings),
    )
