"""Bins of log-SNR: their shares, the estimate over all of them, and what its interval promises."""

import pytest
import torch
from torch import Tensor

from ldm_train.diffusion.schedules.named import RectifiedFlow, cosine, scaled_linear
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.diffusion.timesteps import LogitNormal, LogNormal, Timesteps, Uniform
from ldm_train.training.validation.strata import Strata, compute_stratified_means

SETTINGS = [
    (Uniform(), cosine()),
    (Uniform(), scaled_linear()),
    (Uniform(), scaled_linear(zero_terminal_snr=True)),
    (LogitNormal(), RectifiedFlow()),
    (LogNormal(), scaled_linear(discrete=False)),
    (Uniform(quantiles=[0.5, 1.0]), cosine()),
]
settings = pytest.mark.parametrize(("timesteps", "schedule"), SETTINGS)


@settings
@pytest.mark.parametrize("bins", [1, 2, 8])
def test_bins_rise_and_hold_all_that_is_trained(timesteps: Timesteps, schedule: NoiseSchedule, bins: int) -> None:
    found = Strata.of(timesteps, schedule, bins=bins)
    assert len(found.shares) == bins
    assert (found.edges.diff() > 0).all()
    assert found.edges.isfinite().all()
    assert (found.shares > 0).all()
    assert found.shares.sum().item() == pytest.approx(1)


@settings
def test_a_bin_s_draws_lie_between_its_edges(timesteps: Timesteps, schedule: NoiseSchedule) -> None:
    found = Strata.of(timesteps, schedule, bins=8)
    bins, quantiles = found.assign(torch.arange(1000), 4)
    log_snr = schedule.log_snr(timesteps.t_at_shares(quantiles.flatten(), schedule)).view(bins.shape)
    slack = 0.02 * (found.edges[-1] - found.edges[0])  # shares are found to one part in 4096
    inner = log_snr.isfinite() & (bins > 0) & (bins < 7)
    assert (log_snr[inner] >= found.edges[bins[inner]] - slack).all()
    assert (log_snr[inner] <= found.edges[bins[inner] + 1] + slack).all()


@pytest.mark.parametrize(("examples", "repeats"), [(3, 2), (80, 4), (80, 16), (1, 8), (100, 1)])
def test_every_bin_is_drawn_alike_and_quantiles_are_those_of_the_training(examples: int, repeats: int) -> None:
    found = Strata.of(Uniform(), cosine(), bins=min(8, examples * repeats // 2))
    bins, quantiles = found.assign(torch.arange(examples), repeats)
    counts = bins.flatten().bincount(minlength=len(found.shares))
    assert counts.max() - counts.min() <= repeats
    assert counts.min() >= 1
    assert ((quantiles >= 0) & (quantiles < 1)).all()


def test_few_timesteps_make_few_bins() -> None:
    found = Strata.of(Uniform(), cosine(num_steps=3), bins=8)
    assert 1 <= len(found.shares) <= 3
    assert found.shares.sum().item() == pytest.approx(1)


def loss(log_snr: Tensor, difficulty: Tensor) -> Tensor:
    """A curve as a noise predictor's, and examples that are harder than others at every level of noise."""
    return 1 / (1 + torch.exp(-log_snr / 2)) * difficulty


@settings
def test_the_total_is_the_training_s_expectation(timesteps: Timesteps, schedule: NoiseSchedule) -> None:
    grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    expected = loss(schedule.log_snr(timesteps.t_at_shares(grid, schedule)), torch.ones(())).mean()
    found = Strata.of(timesteps, schedule, bins=8)
    bins, quantiles = found.assign(torch.arange(2000), 4)
    values = loss(
        schedule.log_snr(timesteps.t_at_shares(quantiles.flatten(), schedule)).view(bins.shape), torch.ones(2000, 1)
    )
    total, _ = compute_stratified_means(values, bins, found.shares)
    torch.testing.assert_close(total.mean, expected.item(), rtol=2e-3, atol=0)


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 400 samples of examples, each with a difficulty that all its draws share: 95 %, within four deviations."""
    generator = torch.Generator().manual_seed(0)
    found = Strata.of(Uniform(), cosine(), bins=4)
    bins, quantiles = found.assign(torch.arange(60), 4)
    curve = loss(cosine().log_snr(cosine().quantile(quantiles.flatten())).view(bins.shape), torch.ones(60, 1))
    truth, truths = compute_stratified_means(curve, bins, found.shares)
    held = torch.zeros(5)
    for _ in range(400):
        difficulty = 1 + 0.5 * torch.randn(60, 1, generator=generator, dtype=torch.float64)
        noise = 1 + 0.2 * torch.randn(60, 4, generator=generator, dtype=torch.float64)
        total, each = compute_stratified_means(curve * difficulty * noise, bins, found.shares)
        pairs = [(truth, total), *zip(truths, each, strict=True)]
        assert all(found.low is not None and found.high is not None for _, found in pairs)
        held += torch.tensor([float(found.low <= true.mean <= found.high) for true, found in pairs])  # type: ignore[operator]
    shares = held / 400
    deviation = (0.95 * 0.05 / 400) ** 0.5
    assert ((shares - 0.95).abs() < 4 * deviation).all(), shares


def test_one_example_has_no_interval() -> None:
    total, [each] = compute_stratified_means(
        torch.tensor([[1.0, 3.0]]).double(), torch.zeros(1, 2).long(), torch.ones(1).double()
    )
    assert (total.mean, total.low, total.high) == (2.0, None, None)
    assert (each.mean, each.low) == (2.0, None)
