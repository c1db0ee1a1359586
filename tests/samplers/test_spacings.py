"""Points in time: falling from noise to clean on any schedule, and diffusers' own where they have the rule."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine, linear, scaled_linear
from ldm_train.samplers.spacings import Karras, Leading, Linspace, Listed, Trailing

# diffusers makes arrays of tensors, in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CONTINUOUS = [cosine(discrete=False), RectifiedFlow(), RectifiedFlow(shift=3.0), EDM()]


@pytest.mark.parametrize("spacing", [Trailing(), Leading(), Linspace()], ids=["trailing", "leading", "linspace"])
@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.data())
def test_on_a_table_they_are_whole_and_fall_to_0(spacing, data):
    num_steps = data.draw(st.integers(1, 1000))
    steps = data.draw(st.integers(1, num_steps))
    points = spacing(linear(num_steps=num_steps), steps)
    assert all(isinstance(t, int) for t in points)
    assert len(points) == steps + 1
    assert points[0] <= num_steps
    assert points[-1] == 0
    assert all(t > s for t, s in pairwise(points))


@pytest.mark.parametrize(
    "spacing", [Trailing(), Leading(), Linspace(), Karras(sigma_max=20.0)], ids=["trailing", "leading", "linspace", "karras"]
)
@pytest.mark.parametrize("schedule", CONTINUOUS, ids=["cosine", "flow", "flow-shifted", "edm"])
def test_of_real_t_there_are_any_number(spacing, schedule):
    for steps in (1, 2, 7, 1001):
        points = spacing(schedule, steps)
        assert len(points) == steps + 1
        assert points[0] <= schedule.end
        assert points[-1] == 0
        assert all(t > s for t, s in pairwise(points))


@pytest.mark.parametrize("spacing", [Trailing(), Linspace()], ids=["trailing", "linspace"])
@pytest.mark.parametrize("schedule", [linear(), *CONTINUOUS], ids=["linear", "cosine", "flow", "flow-shifted", "edm"])
def test_sampling_starts_at_the_noise_that_was_trained_on(spacing, schedule):
    assert [spacing(schedule, steps)[0] for steps in (1, 10)] == [schedule.end] * 2


@pytest.mark.parametrize("schedule", [linear(), *CONTINUOUS], ids=["linear", "cosine", "flow", "flow-shifted", "edm"])
@pytest.mark.parametrize("spacing", [Leading(), Linspace()], ids=["leading", "linspace"])
def test_the_last_call_is_at_the_start_of_the_schedule(spacing, schedule):
    assert spacing(schedule, 10)[-2] == pytest.approx(schedule.start)


@pytest.mark.parametrize(
    ("spacing", "settings"),
    [
        (Trailing(), {"timestep_spacing": "trailing"}),
        (Leading(), {"timestep_spacing": "leading"}),
        (Leading(offset=1), {"timestep_spacing": "leading", "steps_offset": 1}),
        (Linspace(), {"timestep_spacing": "linspace"}),
    ],
    ids=["trailing", "leading", "leading-offset", "linspace"],
)
@pytest.mark.parametrize("steps", [2, 20, 30, 50, 250, 500])
def test_they_are_diffusers(spacing, settings, steps):
    """Their indices are one less than our t. An odd number of steps has a point at a half in a linspace, and a half of an
    index is rounded the other way than that of a t.
    """
    reference = DDIMScheduler(**settings)
    reference.set_timesteps(steps)
    assert spacing(linear(), steps)[:-1] == (reference.timesteps + 1).tolist()


@pytest.mark.parametrize(
    ("make", "schedule"),
    [
        (partial(EulerDiscreteScheduler, use_karras_sigmas=True), linear()),
        (
            partial(EulerDiscreteScheduler, beta_schedule="scaled_linear", use_karras_sigmas=True),
            scaled_linear(beta_start=1e-4, beta_end=0.02),
        ),
        (EDMEulerScheduler, EDM()),
        (partial(EDMEulerScheduler, sigma_min=0.01, sigma_max=50.0, rho=3.0), EDM(sigma_min=0.01, sigma_max=50.0)),
    ],
    ids=["linear", "scaled_linear", "edm", "edm-rho3"],
)
@pytest.mark.parametrize("steps", [2, 10, 100])
def test_karras_s_noise_levels_are_diffusers(make, schedule, steps):
    """To float32's rounding of alpha^2 (6e-8) where sigma^2 is least (1e-4), halved by the root."""
    reference = make()
    reference.set_timesteps(steps)
    points = Karras(rho=getattr(reference.config, "rho", 7.0))(schedule, steps)
    ratios = schedule.ratio(torch.tensor(points, dtype=torch.float64))
    assert_close(ratios.float(), reference.sigmas, rtol=6e-8 / 1e-4 / 2, atol=0)


@pytest.mark.parametrize(
    "schedule",
    [linear(), cosine(discrete=False), EDM(), EDM(sigma_min=0.7, sigma_max=80.1)],
    ids=["linear", "cosine", "edm", "edm-odd"],
)
def test_karras_goes_from_the_schedule_s_end_to_its_start_and_not_beyond(schedule):
    """To float32's rounding, which the ends may have been through."""
    points = Karras()(schedule, 10)[:-1]
    assert schedule.start <= points[-1] <= schedule.start * (1 + 1e-6)
    assert schedule.end >= points[0] >= schedule.end * (1 - 1e-6)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_is_even_in_the_root_of_the_noise_level(rho):
    schedule = RectifiedFlow()
    points = Karras(rho=rho, sigma_min=0.01, sigma_max=40.0)(schedule, 11)
    ratios = schedule.ratio(torch.tensor(points[:-1], dtype=torch.float64))
    assert_close(ratios[[0, -1]], torch.tensor([40.0, 0.01], dtype=torch.float64))
    widths = ratios.pow(1 / rho).diff()
    assert_close(widths, widths[:1].expand(10))


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_steps_that_a_table_does_not_have_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps={steps} must be from 1 to the schedule's 10"):
        Trailing()(linear(num_steps=10), steps)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=["cosine", "flow", "flow-shifted", "edm"])
@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(schedule, steps):
    with pytest.raises(ValueError, match=f"steps={steps} must be"):
        Trailing()(schedule, steps)


@pytest.mark.parametrize(
    "timesteps",
    [[1, 500], [500, 500], [1001, 500], [500, 0], [500, -1]],
    ids=["rise", "stay", "beyond the end", "at clean", "beyond clean"],
)
def test_points_that_do_not_fall_are_refused(timesteps):
    with pytest.raises(ValueError, match=r"spacing=listed .* 1000 to 0"):
        Listed(timesteps=timesteps)(linear(), 2)


def test_listed_points_are_taken_as_they_are():
    assert Listed(timesteps=[999, 500.5, 1])(linear(), 3) == [999, 500.5, 1, 0]


@pytest.mark.parametrize("steps", [1, 3])
def test_another_number_of_steps_than_listed_is_refused(steps):
    with pytest.raises(ValueError, match=f"steps={steps}, but spacing.timesteps lists 2"):
        Listed(timesteps=[500, 1])(linear(), steps)


@pytest.mark.parametrize(
    "schedule",
    [RectifiedFlow(), scaled_linear(zero_terminal_snr=True), scaled_linear(zero_terminal_snr=True, discrete=False)],
    ids=["flow", "table", "continuous"],
)
def test_karras_needs_an_end_to_pure_noise(schedule):
    with pytest.raises(ValueError, match=r"set spacing.sigma_max, or choose spacing=trailing"):
        Karras()(schedule, 10)
    assert Karras(sigma_max=80.0)(schedule, 10)[0] < schedule.end


@pytest.mark.parametrize("rho", [0.0, -7.0])
def test_rho_must_be_positive(rho):
    with pytest.raises(ValueError, match=f"rho={rho:g} must be above 0"):
        Karras(rho=rho)
