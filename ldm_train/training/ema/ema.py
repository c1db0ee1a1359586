"""Moving averages of the trained weights, kept next to the raw weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor
from torch.optim import Optimizer

from ldm_train.training.base_module import Training
from ldm_train.training.callbacks.step_log import step_ended
from ldm_train.training.ema.profiles import AveragingProfile, Decay, Power
from ldm_train.training.ema.snapshots import SnapshotSettings
from ldm_train.training.optimization.sharded_tensors import local_part, swap_value
from ldm_train.training.optimization.strides import match_strides
from ldm_train.training.optimization.weight_averaging import WeightAveraging

Weights = Mapping[str, Tensor]


class EMA(Callback):
    """average <- average + (1 - kept_share(n)) (weights - average) at the n-th update, for one or several profiles.

    If the optimizer averages the weights itself, its average is kept here instead, and the profile has no effect.

    Args:
        profiles: how each average forgets; the first one's is `average`, which is used to draw, validate and sample.
        start_step: optimizer steps during which every average is a copy of the weights; averaging starts after them.
        snapshots: how the averages are stored for a later reconstruction; None to store none.
        offload: keep the averages in the CPU's memory, to which the weights are copied at each step.
    """

    def __init__(
        self,
        profiles: Sequence[AveragingProfile] = (Decay(),),
        *,
        start_step: int = 0,
        snapshots: SnapshotSettings | None = None,
        offload: bool = False,
    ) -> None:
        names = [profile.name for profile in profiles]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"ema.lengths lists {names or 'nothing'}; list at least one, and none twice")
        if start_step < 0:
            raise ValueError(f"ema.start_step={start_step} must be 0 (from the first step on) or more optimizer steps")
        self.profiles = tuple(profiles)
        self.start_step = start_step
        self.snapshots = snapshots
        self.offload = offload
        self.updates = 0
        self.averages: dict[str, Weights] = {}
        self._weights: list[torch.nn.Parameter] = []
        self._averaging: WeightAveraging | None = None

    @property
    def average(self) -> Weights:
        """The first profile's average, by the names of the parameters."""
        return self.averages[self.profiles[0].name]

    @property
    def number(self) -> int:
        """Number of the latest update since averaging started; 0 or less before."""
        return self.updates - self.start_step

    @property
    def state_key(self) -> str:
        return "EMA"  # part of the checkpoint's format, so it does not follow the class's name

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start(pl_module, trainer.optimizers[0])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if step_ended(trainer, batch_idx):
            self.update(pl_module)

    def start(self, pl_module: pl.LightningModule, optimizer: Optimizer | None = None) -> None:
        """Start from the current weights, or continue from the averages that a checkpoint had."""
        weights = _trained(pl_module)
        self._averaging = optimizer if isinstance(optimizer, WeightAveraging) else None
        self._weights = list(weights.values())  # walking all modules at every step would take 1 % of a small step on a CPU
        loaded = self.averages or {profile.name: weights for profile in self.profiles}
        self.averages = {
            profile: {
                name: match_strides(average[name].detach(), p).to(self._place(p), copy=True) for name, p in weights.items()
            }
            for profile, average in loaded.items()
        }

    @torch.no_grad()
    def update(self, pl_module: pl.LightningModule) -> None:
        """Update the averages after an optimizer step."""
        self.updates += 1
        assert isinstance(pl_module, Training)
        if self._averaging is not None:
            self._averaging.write_averages(self._weights, list(self.average.values()))
            return
        weights: list[Tensor] = list(self._weights)
        if self.offload:
            weights = [p.detach().to(self._place(p)) for p in weights]
        for profile in self.profiles:
            averages = list(self.averages[profile.name].values())
            share = self.share(profile)
            if averages[0].is_cuda:
                average_fused(averages, weights, share=share, applied=pl_module.applied)
            else:
                factor = (share * pl_module.applied.double()).to(averages[0])  # 0 if the step was skipped
                torch._foreach_lerp_(averages, weights, [factor] * len(averages))

    def _place(self, parameter: Tensor) -> torch.device:
        return torch.device("cpu") if self.offload else parameter.device

    def share(self, profile: AveragingProfile) -> float:
        """Return the weights' share in the latest update of a profile's average; 1, a copy, before averaging starts."""
        return 1 - profile.kept_share(self.number) if self.number > 0 else 1.0

    @contextmanager
    def swapped(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """Replace the raw weights by the averaged ones within the context; the raw ones come back whatever happens."""
        weights = _trained(pl_module)
        raw: dict[str, Tensor] = {}
        try:
            for name, p in weights.items():
                raw[name] = swap_value(p, self.average[name].to(p.device))
            yield
        finally:
            for name, value in raw.items():
                swap_value(weights[name], value)

    def state_dict(self) -> dict[str, object]:
        first, *others = self.profiles
        return {
            "updates": self.updates,
            "start_step": self.start_step,
            "profile": first.name,
            "average": self.average,
            "others": {profile.name: self.averages[profile.name] for profile in others},
        }

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        updates = state_dict["updates"]
        assert isinstance(updates, int)
        stored = _stored(state_dict)
        self.updates, self.averages = updates, {profile.name: stored[profile.name] for profile in self.profiles}


def average_fused(averages: Sequence[Tensor], weights: Sequence[Tensor], *, share: float, applied: Tensor) -> None:
    """Move averages by a share towards the weights, unless `applied`, (), is 0, in a few kernels for all of them.

    `torch._foreach_lerp_` with a tensor as the share would start a kernel for each weight; and as a number it would have to
    wait for the device. A share of 1 copies, because average + (weight - average) is not exactly the weight.
    """
    ours, theirs = ([local_part(tensor).detach() for tensor in part] for part in (averages, weights))
    if share == 1:  # before averaging starts, so that a skipped step changes nothing either
        torch._foreach_copy_(ours, theirs)
        return
    steps = torch._foreach_sub(theirs, ours)
    torch._foreach_mul_(steps, (share * applied.double()).to(ours[0].dtype))
    torch._foreach_add_(ours, steps)


def decaying(*, decay: float = 0.999, start_step: int = 0, offload: bool = False) -> EMA:
    """Return one average that forgets exponentially."""
    return EMA([Decay(decay)], start_step=start_step, offload=offload)


def power(
    *,
    lengths: Sequence[float] = (0.10, 0.05),
    start_step: int = 0,
    snapshot_every: int = 500,
    dtype: str = "float32",
    offload: bool = False,
) -> EMA:
    """Return averages over a constant share of the run, and snapshots from which any other length can be reconstructed.

    Args:
        lengths: standard deviations of the averages as shares of the run; the first one's is used to draw, validate and
            sample.
        start_step: optimizer steps before averaging starts.
        snapshot_every: optimizer steps between snapshots; one is also written at the end.
        dtype: dtype of the snapshots.
        offload: keep the averages in the CPU's memory.
    """
    if not isinstance(lengths, Sequence):
        raise ValueError(f"ema.lengths={lengths} must be a list, such as [0.10,0.05]")
    return EMA(
        [Power(length) for length in lengths],
        start_step=start_step,
        snapshots=SnapshotSettings(snapshot_every, dtype),
        offload=offload,
    )


def _stored(state_dict: Mapping[str, object]) -> dict[str, Weights]:
    """Return the averages in a checkpoint by the names of their profiles."""
    average, others = state_dict["average"], state_dict["others"]
    assert isinstance(average, dict)
    assert isinstance(others, dict)
    return {str(state_dict["profile"]): average, **others}


def _trained(pl_module: pl.LightningModule) -> Mapping[str, torch.nn.Parameter]:
    assert isinstance(pl_module, Training)
    return pl_module.trained_parameters()
