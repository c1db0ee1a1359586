"""A learned log-variance: without effect at first, and at its best the logarithm of the error."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ldm_train.diffusion.weighting import LearnedLogVariance, MinSNR, UniformWeight

log_snr = torch.linspace(-10, 10, 200, dtype=torch.float64)
snr = log_snr.exp()
clean_error = 1 / (1 + snr)
error = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1


@pytest.mark.parametrize("base", [None, UniformWeight(), MinSNR()], ids=["none", "uniform", "min-snr"])
def test_at_first_it_is_what_it_builds_on(base):
    expected = (base or UniformWeight()).loss(error, snr, clean_error)
    assert_close(LearnedLogVariance(base=base).loss(error, snr, clean_error), expected)


@pytest.mark.parametrize("base", [UniformWeight(), MinSNR()], ids=["uniform", "min-snr"])
def test_its_loss_is_the_paper_s(base):
    """exp(-u) error + u (arXiv 2312.02696, eq. 14), for a u that is the series with these coefficients."""
    learned = LearnedLogVariance(terms=3, base=base)
    nn.init.normal_(learned.coefficients, generator=torch.Generator().manual_seed(0))
    a, b, c = learned.coefficients.tolist()
    place = (log_snr / 20 + 1) / 2 * math.pi
    u = a + b * place.cos() + c * (2 * place).cos()
    assert_close(learned.log_variance(snr).double(), u, rtol=0, atol=1e-5)
    expected = base.loss(error, snr, clean_error) * (-u).exp() + u
    assert_close(learned.loss(error, snr, clean_error), expected, rtol=1e-5, atol=1e-5)


def test_at_its_best_it_is_the_logarithm_of_the_error():
    """Of errors that are themselves such a series, over its whole domain, where its terms are orthogonal.

    The loss is convex in u: the optimum is the only one, and a loss of ln(error) + 1 is left there.
    """
    everywhere = torch.linspace(-20, 20, 200, dtype=torch.float64)
    place = (everywhere / 20 + 1) / 2 * math.pi
    target = -1.0 + 0.8 * place.cos() - 0.5 * (2 * place).cos() + 0.3 * (3 * place).cos()
    learned = LearnedLogVariance(terms=4).double()
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.1)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
    for _ in range(400):
        optimizer.zero_grad()
        learned.loss(target.exp(), everywhere.exp(), clean_error).mean().backward()
        optimizer.step()
        decay.step()
    with torch.no_grad():
        # A step of Adam is about its learning rate long, 0.1 * 0.98^400 = 3e-5 in the end, in each of four terms.
        assert_close(learned.log_variance(everywhere.exp()), target, rtol=0, atol=1e-3)
        assert_close(learned.loss(target.exp(), everywhere.exp(), clean_error), target + 1, rtol=0, atol=1e-3)


def test_at_its_best_every_noise_level_has_the_same_weighted_error():
    learned = LearnedLogVariance(terms=1)
    nn.init.constant_(learned.coefficients, math.log(0.25))
    weighted = learned.weights(snr, clean_error) * 0.25
    assert_close(weighted, torch.ones_like(weighted), rtol=1e-6, atol=0)


def test_it_is_a_module_with_its_coefficients_as_parameters():
    learned = LearnedLogVariance(terms=7)
    assert isinstance(learned, nn.Module)
    assert {name: tuple(value.shape) for name, value in learned.named_parameters()} == {"coefficients": (7,)}
    assert list(learned.state_dict()) == ["coefficients"]


@pytest.mark.parametrize("extreme", [0.0, 1e-30, 1e30, math.inf])
def test_beyond_its_limits_it_is_as_at_them(extreme):
    learned = LearnedLogVariance(terms=5)
    nn.init.normal_(learned.coefficients, generator=torch.Generator().manual_seed(0))
    limit = math.exp(-20 if extreme < 1 else 20)
    at = torch.tensor([extreme, limit], dtype=torch.float64)
    beyond, within = learned.log_variance(at)
    assert_close(beyond, within)


@pytest.mark.parametrize("terms", [0, -1])
def test_it_needs_a_term(terms):
    with pytest.raises(ValueError, match=f"terms={terms} must be at least 1"):
        LearnedLogVariance(terms=terms)
