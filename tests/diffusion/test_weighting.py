"""Loss weights equal the published closed forms."""

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.prediction import Clean, Noise, Velocity
from ldm_train.diffusion.schedule import linear
from ldm_train.diffusion.weighting import MinSNR, UniformWeight

t = torch.tensor([1, 10, 100, 300, 700, 1000])
alpha, sigma = linear()(t)
snr = linear().snr(t)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize(
    ("prediction", "divisor"), [(Noise(), snr), (Velocity(), snr + 1), (Clean(), 1)], ids=["noise", "velocity", "clean"]
)
def test_min_snr_has_its_closed_form(prediction, divisor, gamma):
    assert_close(MinSNR(gamma=gamma)(alpha, sigma, prediction), snr.clamp_max(gamma) / divisor, rtol=1e-6, atol=0)


def test_min_snr_truncates_some_and_not_all():
    """The closed forms above would agree idly, were all timesteps on one side of gamma."""
    assert (snr > 5).any()
    assert (snr < 1).any()


@pytest.mark.parametrize("gamma", [0.0, -1.0])
def test_gamma_must_be_positive(gamma):
    with pytest.raises(ValueError, match=f"gamma={gamma}"):
        MinSNR(gamma=gamma)


@pytest.mark.parametrize("prediction", [Noise(), Velocity(), Clean()], ids=["noise", "velocity", "clean"])
def test_the_uniform_weight_is_1(prediction):
    assert_close(UniformWeight()(alpha, sigma, prediction), torch.ones_like(alpha))
