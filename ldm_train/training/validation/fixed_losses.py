"""Losses of a model on chosen examples, held out or trained, by log-SNR, with draws fixed per example."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.training.loggers.dashboards import PlainRecord
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.validation.strata import ConfidenceInterval, Strata, compute_stratified_means

NAMES = ("loss", "noise_mse")


@dataclass(frozen=True)
class FixedLosses:
    """The loss and the noise error of N examples, in total and by log-SNR.

    Args:
        examples: N.
        counts: draws in each bin.
        total: mean over the training's t, by name ("loss", "noise_mse").
        each: mean in each bin, by name.
    """

    examples: int
    strata: Strata
    counts: list[int]
    total: Mapping[str, ConfidenceInterval]
    each: Mapping[str, list[ConfidenceInterval]]

    def scalars(self, suffix: str = "") -> dict[str, float]:
        """Return the totals by name, and the ends of their confidence intervals if there are any."""
        values: dict[str, float] = {}
        for name, interval in self.total.items():
            ends = {"": interval.mean, "_low": interval.low, "_high": interval.high}
            values |= {f"{name}{suffix}{end}": value for end, value in ends.items() if value is not None}
        return values

    def bins(self, prefix: str) -> dict[str, float]:
        """Return the loss in each bin, with the bin's log-SNRs in its name."""
        edges = self.strata.edges.tolist()
        return {
            f"{prefix}log_snr_{low:.1f}_to_{high:.1f}": interval.mean
            for low, high, interval in zip(edges[:-1], edges[1:], self.each["loss"], strict=True)
        }

    def record(self) -> PlainRecord:
        """Return all bins as plain values."""
        loss = self.each["loss"]
        return {
            "examples": self.examples,
            "edges": self.strata.edges.tolist(),
            "counts": self.counts,
            "loss": [interval.mean for interval in loss],
            "loss_low": [interval.low for interval in loss],
            "loss_high": [interval.high for interval in loss],
            "noise_mse": [interval.mean for interval in self.each["noise_mse"]],
        }


def measure_losses(
    module: NoisePredictorTraining,
    data: CachedLatents,
    examples: Tensor,
    *,
    batch_size: int,
    repeats: int,
    bins: int = 8,
    rank: int = 0,
    world: int = 1,
) -> FixedLosses:
    """Measure losses on examples (N,), each at `repeats` timesteps; the ranks share the work, and all return the same.

    Timesteps and noise depend on an example's place among the N only, so two models, or two sets of examples, get the same.

    Args:
        bins: number of bins of log-SNR; fewer if there are few draws.
    """
    # At least two values a bin, or its interval would be undefined.
    strata = Strata.of(
        module.timesteps,
        module.objective.denoiser.schedule,
        bins=max(1, min(bins, len(examples) * repeats // 2)),
    )
    chosen, quantiles = strata.assign(torch.arange(len(examples)), repeats)
    times = module.timesteps.t_at_shares(quantiles.flatten(), module.objective.denoiser.schedule).view(quantiles.shape)
    values = torch.zeros(len(NAMES), *quantiles.shape, dtype=torch.float64, device=module.device)
    for repeat in range(repeats):
        for portion in data.portions(examples, batch_size * world):
            mine = portion[rank::world]
            # Sharded parameters need every rank at every forward pass, so a rank without examples computes another's.
            places = mine if len(mine) else portion[:1]
            batch = data.transfer_batch_to_device(data.fixed_batch(examples[places], places), module.device, 0)
            with module.at_rest():
                losses = module.losses(batch, times[places, repeat], stream=f"held out {repeat} ")
            if len(mine):
                values[:, places, repeat] = torch.stack([losses.loss.double(), losses.noise_mse.double()])
    if world > 1:
        torch.distributed.all_reduce(values)
    return _summed(values.cpu(), chosen, strata)


def _summed(values: Tensor, chosen: Tensor, strata: Strata) -> FixedLosses:
    """Return the means of values (2, N, R) in bins (N, R)."""
    means = {name: compute_stratified_means(rows, chosen, strata.shares) for name, rows in zip(NAMES, values, strict=True)}
    counts = chosen.flatten().bincount(minlength=len(strata.shares)).tolist()
    return FixedLosses(
        len(chosen),
        strata,
        counts,
        {name: total for name, (total, _) in means.items()},
        {name: each for name, (_, each) in means.items()},
    )
