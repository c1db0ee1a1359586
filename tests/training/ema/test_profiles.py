"""What an average keeps, as a share of the run: lengths, exponents, and the weights of single steps."""

import math

import pytest
import torch

from ldm_train.training.ema.profiles import MAX_LENGTH, AveragingProfile, Decay, Power, gamma_of_length, length_of_gamma

LENGTHS = [0.001, 0.01, 0.05, 0.08, 0.10, 0.15, 0.25, 0.2886]


def shares(profile: AveragingProfile, steps: int) -> torch.Tensor:
    """Of each step's weights in the average at the end, (steps,), by the recursion alone; the start's is left out."""
    kept = torch.tensor([profile.kept_share(n) for n in range(1, steps + 1)], dtype=torch.float64)
    later = torch.cat([kept[1:].flip(0).cumprod(0).flip(0), torch.ones(1, dtype=torch.float64)])
    return (1 - kept) * later


@pytest.mark.parametrize("length", LENGTHS)
def test_an_exponent_has_the_length_that_it_was_made_of(length: float) -> None:
    gamma = gamma_of_length(length)
    assert length_of_gamma(gamma) == pytest.approx(length, rel=1e-9)
    assert gamma >= 0, "the largest root: others have the same length, or none"


def test_the_exponents_of_the_paper() -> None:
    """Karras et al. 2024, section 3.1: sigma_rel of 0.05 and 0.10 are exponents of about 16.97 and 6.94."""
    assert (gamma_of_length(0.05), gamma_of_length(0.10)) == pytest.approx((16.97, 6.94), abs=5e-3)
    assert gamma_of_length(MAX_LENGTH) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("length", [0.05, 0.10, 0.20])
def test_the_recursion_deviates_by_its_length(length: float) -> None:
    steps = 5000
    weights = shares(Power(length), steps)
    times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    mean = weights @ times
    assert weights.sum().item() == pytest.approx(1, abs=1e-9), "nothing of the start is left"
    assert math.sqrt(weights @ (times - mean).square()) == pytest.approx(length, rel=0.01)


@pytest.mark.parametrize("steps", [1, 2, 37])
def test_a_step_has_the_profiles_integral(steps: int) -> None:
    exponent = gamma_of_length(0.1) + 1
    bounds = (torch.arange(steps + 1, dtype=torch.float64) / steps) ** exponent
    torch.testing.assert_close(shares(Power(0.1), steps), bounds.diff())


def test_a_decay_warms_up() -> None:
    kept = [Decay(0.9).kept_share(n) for n in range(1, 200)]
    assert kept[0] == 2 / 11
    assert kept == sorted(kept)
    assert kept[-1] == 0.9


@pytest.mark.parametrize("length", [0, -0.1, 0.3, 1, math.nan, True, "long"])
def test_a_length_that_no_profile_has_is_refused(length: float) -> None:
    with pytest.raises(ValueError, match=f"ema.lengths={length} must be above 0 and at most 0.2886"):
        Power(length)
