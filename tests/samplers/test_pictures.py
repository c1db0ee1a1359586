"""A picture to start from: how much of it may change, and where."""

import pytest
import torch
from torch.testing import assert_close

from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.prediction import Velocity
from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine
from ldm_train.samplers.base import InitialPicture
from ldm_train.samplers.ddim import DDIM
from ldm_train.samplers.ddpm import DDPM
from ldm_train.samplers.dpm_solver import DPMSolver
from ldm_train.samplers.euler import Euler
from ldm_train.samplers.euler_ancestral import EulerAncestral
from ldm_train.samplers.heun import Heun
from ldm_train.samplers.spacings import Trailing
from ldm_train.samplers.unipc import UniPC
from ldm_train.types import Conditioning
from tests.pairwise import parametrize_pairs

EVERY_SAMPLER = {
    "ddim": DDIM(),
    "ddpm": DDPM(),
    "euler": Euler(),
    "ancestral": EulerAncestral(),
    "heun": Heun(),
    "dpm": DPMSolver(),
    "dpm-stochastic": DPMSolver(stochastic=True),
    "unipc2": UniPC(),
    "unipc3": UniPC(order=3),
}
EVERY_SCHEDULE = {"cosine": cosine(), "flow": RectifiedFlow(), "edm": EDM()}
SAMPLERS = pytest.mark.parametrize("sampler", EVERY_SAMPLER.values(), ids=EVERY_SAMPLER)
SCHEDULES = pytest.mark.parametrize("schedule", EVERY_SCHEDULE.values(), ids=EVERY_SCHEDULE)


def strengths(*which):
    return parametrize_pairs(
        sampler=EVERY_SAMPLER, schedule=EVERY_SCHEDULE, strength={str(strength): strength for strength in which}
    )


latents, noise = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(1, 1, 4, 4)
MASK[..., 1:, :2] = 1


class Recorder:
    """A small fixed network, which keeps what it was shown."""

    def __init__(self):
        self.shown = []

    def __call__(self, x_t, reported_t, conditioning):
        self.shown.append((x_t, reported_t))
        return torch.tanh(1.3 * x_t.roll(1, dims=-1) - 0.4 * x_t)


def sample(sampler, network, picture, *, schedule=None, steps=10):
    denoiser = Denoiser(network, schedule or cosine(), Velocity())
    generator = torch.Generator().manual_seed(1)
    return sampler(denoiser, noise, Conditioning(), steps=steps, generator=generator, picture=picture)


@pytest.mark.parametrize(
    ("strength", "taken"), [(1e-6, 1), (0.05, 1), (0.14, 1), (0.3, 3), (0.75, 8), (0.96, 10), (1.0, 10)]
)
def test_strength_is_the_share_of_the_steps_that_is_taken(strength, taken):
    network = Recorder()
    sample(DDIM(), network, InitialPicture(latents, strength))
    assert len(network.shown) == taken


@strengths(0.2, 0.5, 1.0)
def test_it_starts_from_the_picture_as_the_forward_process_has_it(sampler, schedule, strength):
    network = Recorder()
    sample(sampler, network, InitialPicture(latents, strength), schedule=schedule)
    t = torch.tensor([Trailing()(schedule, 10)[10 - round(10 * strength)]] * 2)
    corrupted = schedule.corrupt(latents, noise, t)
    shown, seen_time = network.shown[0]
    norm = 1.0 if schedule.sigma_data is None else torch.hypot(*schedule(t)).float().view(-1, 1, 1, 1)
    assert_close(shown, corrupted / norm)
    # A real t is seen_time in float32.
    assert_close(seen_time.double(), schedule.network_time(t).double(), rtol=1e-6, atol=0)


def test_a_faint_change_is_near_the_picture():
    """From t = 1 of 1000 the one step is to the clean estimate: off by no more than what the noise there can hide."""
    found = sample(DDIM(), Recorder(), InitialPicture(latents, 0.001), steps=1000)
    alpha, sigma = (value.item() for value in cosine()(torch.tensor([1])))
    output = torch.tanh(1.3 * latents.roll(1, dims=-1) - 0.4 * latents).abs().max().item() + 1
    assert_close(found, latents, rtol=0, atol=sigma * (noise.abs().max().item() + output) + (1 - alpha))


@strengths(0.5, 1.0)
def test_what_the_mask_keeps_is_the_picture_itself(sampler, schedule, strength):
    found = sample(sampler, Recorder(), InitialPicture(latents, strength, MASK), schedule=schedule)
    keep = (MASK == 0).expand_as(latents)
    assert_close(found[keep], latents[keep], rtol=0, atol=0)
    assert (found[~keep] != latents[~keep]).all()


@SAMPLERS
@SCHEDULES
def test_what_the_mask_keeps_has_the_forward_process_s_noise_on_the_way(sampler, schedule):
    """So that what is drawn fits to it at every noise level."""
    reached = []
    denoiser = Denoiser(Recorder(), schedule, Velocity())
    sampler(
        denoiser,
        noise,
        Conditioning(),
        steps=10,
        generator=torch.Generator().manual_seed(1),
        picture=InitialPicture(latents, mask=MASK),
        callback=lambda number, x_s, estimate: reached.append(x_s),
    )
    points = torch.tensor(Trailing()(schedule, 10)[1:])
    expected = torch.stack([schedule.corrupt(latents, noise, t.expand(2)) for t in points])
    keep = (MASK == 0).expand_as(expected)
    assert_close(torch.stack(reached)[keep], expected[keep])


@SAMPLERS
def test_a_mask_of_ones_draws_everything(sampler):
    assert_close(
        sample(sampler, Recorder(), InitialPicture(latents, 0.5, torch.ones(2, 1, 4, 4))),
        sample(sampler, Recorder(), InitialPicture(latents, 0.5)),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("strength", [-0.5, 0.0, 1.01])
def test_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match=f"strength={strength:g} must be above 0"):
        InitialPicture(latents, strength)
