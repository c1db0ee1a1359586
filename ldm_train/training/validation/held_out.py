"""What held-out examples say of a model: its losses by log-SNR, with draws fixed per example."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.training.loggers.jsonl import Record
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.validation.strata import Interval, Strata, stratified

NAMES = ("loss", "noise_mse")


@dataclass(frozen=True)
class HeldOutLosses:
    """The loss and the noise error of held-out examples, in total and by log-SNR."""

    strata: Strata
    counts: list[int]
    total: Mapping[str, Interval]
    each: Mapping[str, list[Interval]]

    def scalars(self, suffix: str = "") -> dict[str, float]:
        """The totals by name, and the ends of their intervals where there are some."""
        found: dict[str, float] = {}
        for name, interval in self.total.items():
            ends = {"": interval.mean, "_low": interval.low, "_high": interval.high}
            found |= {f"{name}{suffix}{end}": value for end, value in ends.items() if value is not None}
        return found

    def bins(self, prefix: str) -> dict[str, float]:
        """The loss by the log-SNRs of each bin."""
        edges = self.strata.edges.tolist()
        return {
            f"{prefix}log_snr_{low:.1f}_to_{high:.1f}": interval.mean
            for low, high, interval in zip(edges[:-1], edges[1:], self.each["loss"], strict=True)
        }

    def record(self) -> Record:
        """All bins as plain values."""
        loss = self.each["loss"]
        return {
            "edges": self.strata.edges.tolist(),
            "counts": self.counts,
            "loss": [interval.mean for interval in loss],
            "loss_low": [interval.low for interval in loss],
            "loss_high": [interval.high for interval in loss],
            "noise_mse": [interval.mean for interval in self.each["noise_mse"]],
        }


def held_out_losses(
    module: NoisePredictorTraining,
    data: CachedLatents,
    *,
    batch_size: int,
    repeats: int,
    bins: int = 8,
    examples: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> HeldOutLosses:
    """Losses over held-out examples, each at `repeats` timesteps; shared among the ranks, and the same on each of them."""
    indices = torch.arange(len(data.held_out))
    indices = indices[:: max(1, -(-len(indices) // (examples or len(indices))))]
    # Of a bin with one value alone nothing could be told.
    strata = Strata.of(
        module.timesteps,
        module.objective.denoiser.schedule,
        bins=max(1, min(bins, len(indices) * repeats // 2)),
    )
    chosen, quantiles = strata.assign(torch.arange(len(indices)), repeats)
    times = module.timesteps.at(quantiles.flatten(), module.objective.denoiser.schedule).view(quantiles.shape)
    values = torch.zeros(len(NAMES), *quantiles.shape, dtype=torch.float64, device=module.device)
    for repeat in range(repeats):
        for portion in data.portions(indices, batch_size * world):
            mine = portion[rank::world]
            # Sharded parameters need every rank at every forward pass: one without examples of its own computes another's.
            some = mine if len(mine) else portion[:1]
            places = torch.searchsorted(indices, some)
            batch = data.transfer_batch_to_device(data.held_out_batch(some), module.device, 0)
            with module.at_rest():
                losses = module.losses(batch, times[places, repeat], stream=f"held out {repeat} ")
            if len(mine):
                values[:, places, repeat] = torch.stack([losses.loss.double(), losses.noise_mse.double()])
    if world > 1:
        torch.distributed.all_reduce(values)
    return _summed(values.cpu(), chosen, strata)


def _summed(values: Tensor, chosen: Tensor, strata: Strata) -> HeldOutLosses:
    """What values (2, N, R) in bins (N, R) come to."""
    found = {name: stratified(own, chosen, strata.shares) for name, own in zip(NAMES, values, strict=True)}
    counts = chosen.flatten().bincount(minlength=len(strata.shares)).tolist()
    return HeldOutLosses(
        strata,
        counts,
        {name: total for name, (total, _) in found.items()},
        {name: each for name, (_, each) in found.items()},
    )
