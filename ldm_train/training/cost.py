"""What encoding and training will take: bytes from shapes alone, and the seconds and activations of a step that is tried."""

import math
import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm_train.data.plan import Plan
from ldm_train.training.ema import EMA
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.types import LatentBatch

SECONDS = 20.0  # that trying a step may take, about
TIMED = 3
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class RowShapes:
    """What an autoencoder and a text encoder store.

    Args:
        channels, factor: C of the latents, and pixels of a latent's side.
        posterior: whether a log-variance is stored beside the mean.
        moment_bytes: of one number.
        tokens: L of a caption.
        width: D of a cached embedding; None where the text encoder is trained.
    """

    channels: int
    factor: int
    posterior: bool
    moment_bytes: int
    tokens: int
    width: int | None

    def picture(self, shape: tuple[int, int], views: int) -> int:
        """Bytes of the row of a picture of this (height, width)."""
        values = views * self.channels * math.prod(side // self.factor for side in shape)
        return values * self.moment_bytes * (2 if self.posterior else 1)

    @property
    def caption(self) -> int:
        """Bytes of the row of a caption: int32 tokens, float16 embeddings."""
        return self.tokens * (4 + 2 * (self.width or 0))


@dataclass(frozen=True)
class CacheBytes:
    """A cache on disk: rows of latents and of captions, and what is told of them; `while_encoding` is what both need then."""

    latents: int
    captions: int
    told: int

    @property
    def total(self) -> int:
        return self.latents + self.captions + self.told

    @property
    def while_encoding(self) -> int:
        """Every row lies in a part too, until the whole is there."""
        return self.total + self.latents + self.captions


def cache_bytes(plan: Plan, rows: RowShapes) -> CacheBytes:
    """What encoding all of a plan anew will write."""
    latents = sum(len(names) * rows.picture(shape, plan.crop.views) for shape, names in plan.rows.items())
    index = sum(41 + 20 * plan.crop.views + 4 * len(seen.item.captions) for seen in plan.seen)
    told = sum(len(text) for text in plan.texts_on_disk().values())
    return CacheBytes(latents, len(plan.texts) * rows.caption, told + index)


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


def step_bytes(module: nn.Module, make_optimizer: Callable[[Iterable[Tensor]], Optimizer]) -> StepBytes:
    """From the shapes of parameters and buffers, which may be on the meta device."""
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])
    own = sum(p.nbytes for p in trained)
    kinds = {(tuple(p.shape), p.dtype) for p in trained}
    state = {kind: state_bytes(*kind, make_optimizer) for kind in kinds}
    return StepBytes(weights, own, sum(state[tuple(p.shape), p.dtype] for p in trained), own)


def state_bytes(shape: tuple[int, ...], dtype: torch.dtype, make_optimizer: Callable[[Iterable[Tensor]], Optimizer]) -> int:
    """What the optimizer keeps for a parameter, after a step of one alone."""
    parameter = nn.Parameter(torch.zeros(shape, dtype=dtype))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = make_optimizer([parameter])
    optimizer.step()
    return sum(value.nbytes for value in optimizer.state[parameter].values() if isinstance(value, Tensor))


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
    """A step that was tried: with how many examples, what these took in memory, and the seconds of the step."""

    examples: int
    activations: int
    seconds: float


def try_step(
    module: NoisePredictorTraining,
    batch: Callable[[int], LatentBatch],
    *,
    rows: int,
    memory: int,
    precision: str,
    optimize: bool = True,
) -> Tried:
    """Train a few steps of a forward pass each, of as many of the wanted examples as memory and patience allow.

    Args:
        batch: so many examples, on the module's device.
        rows: how many are wanted.
        memory: what their activations may take, bytes.
        precision: the Trainer's.
        optimize: False for the gradients alone, of one example, where the optimizer's state would not fit.
    """
    device = next(module.network.parameters()).device
    half = torch.autocast(device.type, AUTOCAST[precision]) if precision in AUTOCAST else nullcontext()
    optimizer = module.make_optimizer([p for p in module.parameters() if p.requires_grad]) if optimize else None
    ema = EMA()
    if optimize:
        ema.start(module)

    def step(count: int) -> tuple[int, float]:
        examples = batch(count)
        start = now(device)
        with half:
            loss, kept = saved_bytes(lambda: module.training_step(examples, 0)["loss"], module.parameters())
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            ema.update(module)
        module.zero_grad()
        return kept, now(device) - start

    module.train()
    step(1)  # what happens once alone takes the first its time
    kept, seconds = step(1)
    examples = max(1, min(rows, memory // max(1, kept), int(SECONDS / (TIMED + 1) / seconds))) if optimize else 1
    tried = [step(examples) for _ in range(1 + TIMED)]
    return Tried(examples, tried[0][0], median(seconds for _, seconds in tried[1:]))


def now(device: torch.device) -> float:
    """The time, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def free_memory(device: torch.device) -> int:
    """Of the device, bytes; of the machine where it is the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf(
        "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    )
