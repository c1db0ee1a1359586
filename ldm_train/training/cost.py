"""What encoding and training will take: bytes from shapes alone, and the seconds and activations of a step that is tried."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm_train.data.cache.plan import CachePlan
from ldm_train.training.ema.ema import EMA
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.types import LatentBatch

SECONDS = 5.0  # that trying a step may take, about
TIMED = 3
GROWTH = 4  # of the examples, from one try to the next


@dataclass(frozen=True)
class RowShapes:
    """What an autoencoder and a text encoder store.

    Args:
        channels, factor: C of the latents, and pixels of a latent's side.
        posterior: whether a log-variance is stored next to the mean.
        moment_bytes: of one number.
        tokens: L of a caption.
        embedding: numbers of the cached embedding of a caption; 0 where the text encoder is trained.
        map_channels: of all maps of a picture together.
    """

    channels: int
    factor: int
    posterior: bool
    moment_bytes: int
    tokens: int
    embedding: int
    map_channels: int = 0

    def picture(self, shape: tuple[int, int], views: int) -> int:
        """Bytes of the row of a picture of this (height, width)."""
        channels = self.channels * (2 if self.posterior else 1) + self.map_channels
        return views * channels * math.prod(side // self.factor for side in shape) * self.moment_bytes

    @property
    def caption(self) -> int:
        """Bytes of the row of a caption: int32 tokens, float16 embeddings."""
        return 4 * self.tokens + 2 * self.embedding


@dataclass(frozen=True)
class CacheBytes:
    """A cache on disk: rows of latents and of captions, and the index."""

    latents: int
    captions: int
    texts: int

    @property
    def total(self) -> int:
        return self.latents + self.captions + self.texts

    @property
    def while_encoding(self) -> int:
        """Every row lies in a part too, until the whole is there."""
        return self.total + self.latents + self.captions


def cache_bytes(plan: CachePlan, rows: RowShapes) -> CacheBytes:
    """What encoding all of a plan anew will write."""
    latents = sum(len(names) * rows.picture(shape, plan.crop.views) for shape, names in plan.rows.items())
    index = sum(41 + 20 * plan.crop.views + 4 * len(seen.item.captions) for seen in plan.scanned)
    texts = sum(len(text) for texts in plan.texts_on_disk().values() for text in texts)
    return CacheBytes(latents, len(plan.texts) * rows.caption, texts + index)


@dataclass(frozen=True)
class StepBytes:
    """The memory of training on one device, without what a batch takes: weights, and what is kept for those trained."""

    weights: int
    gradients: int
    optimizer: int
    ema: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.ema

    def of_numbers(self, size: int) -> "StepBytes":
        """The same, of numbers of so many bytes instead of float32's four."""
        return StepBytes(*(value * size // 4 for value in (self.weights, self.gradients, self.optimizer, self.ema)))


def step_bytes(
    module: nn.Module, make_optimizer: Callable[[Iterable[Tensor]], Optimizer], *, averages: int = 1
) -> StepBytes:
    """From the shapes of parameters and buffers, which may be on the meta device, and how many averages are kept."""
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])
    own = sum(p.nbytes for p in trained)
    kinds = {(tuple(p.shape), p.dtype) for p in trained}
    state = {kind: state_bytes(*kind, make_optimizer) for kind in kinds}
    return StepBytes(weights, own, sum(state[tuple(p.shape), p.dtype] for p in trained), averages * own)


def state_bytes(shape: tuple[int, ...], dtype: torch.dtype, make_optimizer: Callable[[Iterable[Tensor]], Optimizer]) -> int:
    """What the optimizer keeps for a parameter, after a step of one alone."""
    parameter = nn.Parameter(torch.zeros(shape, dtype=dtype))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer([parameter])
    optimizer.step()
    return sum(tensor.nbytes for tensor in _list_tensors(list(optimizer.state[parameter].values())))


def _list_tensors(value: object) -> Iterator[Tensor]:
    """Yield a tensor, or all tensors in lists at any depth."""
    if isinstance(value, Tensor):
        yield value
    for item in value if isinstance(value, list) else ():
        yield from _list_tensors(item)


def saved_bytes(forward: Callable[[], Tensor], weights: Iterable[Tensor]) -> tuple[Tensor, int]:
    """A forward pass' result, and the bytes of all that it keeps for the backward pass and that is no weight.

    Of blocks that are computed again in the backward pass nothing is seen here.
    """
    own = {weight.untyped_storage().data_ptr() for weight in weights}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    return result, sum(kept.values())


@dataclass(frozen=True)
class Tried:
    """Passes forward and back that were tried with so many examples.

    Args:
        activations: bytes that these take in memory.
        seconds: of both passes.
        each: seconds of one example more.
        update: seconds of the optimizer and the average of the weights, whatever the batch.
    """

    examples: int
    activations: int
    seconds: float
    each: float
    update: float

    def step(self, rows: int, accumulation: int) -> float:
        """Seconds of an optimizer step of so many passes, each of so many examples."""
        return accumulation * (self.seconds + self.each * (rows - self.examples)) + self.update


def try_step(
    module: NoisePredictorTraining,
    batch: Callable[[int], LatentBatch],
    *,
    rows: int,
    memory: int,
    precision: str,
    ema: EMA | None,
) -> Tried:
    """Train a few steps, of ever more examples as far as memory and patience allow.

    Args:
        batch: so many examples, on the module's device.
        rows: how many are wanted.
        memory: what their activations may take, bytes.
        precision: the Trainer's.
        ema: the averages of the weights, not yet started; None for the gradients of one example alone, where the
            optimizer's state would not fit.
    """
    passes = Passes(module, batch, precision)
    updates = None if ema is None else Updates(module, ema)
    passes(1)  # what happens once alone takes the first its time
    if updates is not None:
        updates()
    began = perf_counter()
    kept, seconds = passes(1)
    tried = {1: [seconds]}
    while updates is not None and (size := min(rows, GROWTH * max(tried))) > max(tried):
        if size * kept > memory or (size > GROWTH and perf_counter() - began > SECONDS / 2) or seconds > SECONDS:
            break
        activations, seconds = passes(size)
        tried[size] = [seconds]
        kept = max(kept, activations // size)
    examples = max(tried)
    while len(tried[examples]) < 1 + TIMED and perf_counter() - began < SECONDS:
        tried[examples].append(passes(examples)[1])
    best = {size: min(measured) for size, measured in tried.items()}
    less = max((size for size in best if size < examples), default=0)
    each = max(0.0, best[examples] - best.get(less, 0.0)) / (examples - less)
    spent = median(updates() for _ in range(TIMED)) if updates is not None else 0.0
    return Tried(examples, kept * examples, best[examples], each, spent)


class Passes:
    """Forward and back with so many examples: the bytes that are kept between, and the seconds."""

    def __init__(self, module: NoisePredictorTraining, batch: Callable[[int], LatentBatch], precision: str) -> None:
        self.module = module.train()
        self.batch = batch
        self.device = next(module.network.parameters()).device
        kind = torch.float16 if precision == "16-mixed" and self.device.type == "cuda" else torch.bfloat16
        self.half = torch.autocast(self.device.type, kind) if precision.endswith("-mixed") else nullcontext()

    def __call__(self, count: int) -> tuple[int, float]:
        examples = self.batch(count)
        start = now(self.device)
        with self.half:
            loss, kept = saved_bytes(lambda: self.module.training_step(examples, 0)["loss"], self.module.parameters())
        loss.backward()
        return kept, now(self.device) - start


class Updates:
    """The optimizer's step and that of the averaged weights, on whatever gradients there are: the seconds."""

    def __init__(self, module: NoisePredictorTraining, ema: EMA) -> None:
        self.module = module
        self.optimizer = module.make_optimizer([p for p in module.parameters() if p.requires_grad])
        self.ema = ema
        self.ema.start(module, self.optimizer)

    def __call__(self) -> float:
        device = next(self.module.network.parameters()).device
        start = now(device)
        self.optimizer.step()
        self.ema.update(self.module)
        return now(device) - start


def now(device: torch.device) -> float:
    """The time, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def free_memory(device: torch.device) -> int:
    """Of the device, bytes; of the machine where it is the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:  # what is free, and what is kept of files and can be had at once
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
