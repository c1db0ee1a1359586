"""What holds for every noise schedule, with any parameters."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine, from_betas, linear, scaled_linear, sigmoid
from ldm_train.diffusion.schedules.schedule import VariancePreserving

SCHEDULES = {
    "linear": linear(),
    "scaled_linear": scaled_linear(),
    "cosine": cosine(),
    "sigmoid": sigmoid(),
    "betas": from_betas([0.1, 0.2, 0.4, 0.8]),
    "zero-terminal-snr": scaled_linear(zero_terminal_snr=True),
    "shifted": linear(shift=4.0),
    "continuous": cosine(discrete=False),
    "flow": RectifiedFlow(),
    "flow-shifted": RectifiedFlow(shift=3.0),
    "edm": EDM(),
}
EVERY = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
TABLES = pytest.mark.parametrize(
    "schedule",
    [schedule for schedule in SCHEDULES.values() if isinstance(schedule, VariancePreserving)],
    ids=[name for name, schedule in SCHEDULES.items() if isinstance(schedule, VariancePreserving)],
)

adjusted = {
    "num_steps": st.integers(2, 200),
    "zero_terminal_snr": st.booleans(),
    "shift": st.floats(0.1, 10.0),
    "discrete": st.booleans(),
}
ANY = st.one_of(
    st.builds(linear, beta_start=st.floats(1e-5, 0.01), beta_end=st.floats(0.01, 0.1), **adjusted),
    st.builds(scaled_linear, beta_start=st.floats(1e-5, 0.01), beta_end=st.floats(0.01, 0.1), **adjusted),
    st.builds(cosine, offset=st.floats(0.001, 0.1), max_beta=st.floats(0.9, 0.9999), **adjusted),
    st.builds(sigmoid, first=st.floats(-5.0, 0.0), last=st.floats(0.5, 5.0), temperature=st.floats(0.5, 2.0), **adjusted),
    st.builds(from_betas, st.lists(st.floats(1e-4, 0.5), min_size=2, max_size=50), shift=st.floats(0.1, 10.0)),
    st.builds(RectifiedFlow, shift=st.floats(0.1, 10.0)),
    st.builds(EDM, sigma_min=st.floats(1e-4, 0.1), sigma_max=st.floats(1.0, 200.0), sigma_data=st.floats(0.1, 2.0)),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(schedule=ANY, steps=st.integers(2, 50))
def test_the_log_snr_falls_strictly_from_infinity(schedule, steps):
    log_snr = schedule.log_snr(torch.linspace(0, schedule.end, steps + 1, dtype=torch.float64))
    assert log_snr[0] == float("inf")
    assert (log_snr.diff() < 0).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(schedule=ANY, share=st.floats(0.01, 0.99))
def test_the_time_of_a_ratio_is_where_it_is_reached(schedule, share):
    """At fractional t too; to the rounding of angles, 1e-16, over their width in a step, 1e-4 and more where not next to
    pure noise or the picture.
    """
    t = torch.tensor([share * schedule.end], dtype=torch.float64)
    ratio = schedule.ratio(t)
    assert_close(schedule.ratio(schedule.t_at_ratio(ratio)), ratio, rtol=1e-9, atol=0)


@EVERY
def test_time_of_undoes_the_ratio(schedule):
    t = schedule.end * torch.tensor([0.003, 0.1, 1 / 3, 0.5, 0.777, 0.999, 1.0], dtype=torch.float64)
    assert_close(schedule.t_at_ratio(schedule.ratio(t)), t, rtol=1e-9, atol=1e-9)


@TABLES
def test_whole_and_real_t_agree(schedule):
    whole = torch.arange(schedule.end + 1)
    assert_close(schedule(whole.double()), schedule(whole), rtol=0, atol=1e-12)


@TABLES
def test_the_variance_is_preserved_between_whole_t_too(schedule):
    t = torch.linspace(0, schedule.end, 997, dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert_close(alpha.square() + sigma.square(), torch.ones_like(t), rtol=0, atol=1e-12)


@EVERY
def test_t_is_0_for_clean_and_the_end_for_noise(schedule):
    alpha, sigma = schedule(torch.tensor([0, schedule.end]))
    assert (alpha[0], sigma[0]) == (1, 0)
    # Of a picture of unit variance a tenth of the deviation at most is left, but in Stable Diffusion's tables and few steps.
    assert sigma[1] / alpha[1] > 3


@TABLES
def test_at_whole_t_the_table_is_taken_as_it_is(schedule):
    """Bit for bit, whether t is whole by its dtype or by its value."""
    t = torch.arange(1, schedule.end + 1)
    expected = schedule.alphas_squared.sqrt(), (1 - schedule.alphas_squared).sqrt()
    assert_close(schedule(t), expected, rtol=0, atol=0)
    assert_close(schedule(t.double()), expected, rtol=0, atol=0)


@TABLES
def test_t_beyond_the_table_is_an_error(schedule):
    with pytest.raises(IndexError):
        schedule(torch.tensor([schedule.end + 1]))


@EVERY
def test_the_network_s_time_rises_from_near_0_to_near_1000(schedule):
    t = torch.linspace(schedule.start, schedule.end, 50, dtype=torch.float64)
    times = schedule.network_time(t)
    assert (times.diff() > 0).all()
    low, high = (-1600, 1200) if isinstance(schedule, EDM) else (0, 1000)
    assert low <= times[0]
    assert times[-1] <= high


@EVERY
@settings(max_examples=20, deadline=None, derandomize=True)
@given(u=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_quantiles_lie_where_it_is_trained(schedule, u):
    t = schedule.quantile(torch.tensor(u, dtype=torch.float64))
    assert ((t >= schedule.start) & (t <= schedule.end)).all()
    assert t.dtype == torch.float64
    assert not schedule.discrete or t.frac().eq(0).all()
    assert_close(schedule.nearest_trained(t), t, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("schedule", "expected"), [(linear(num_steps=10), [1, 1, 4, 10]), (RectifiedFlow(), [1e-3, 0.4, 1.0, 1.0])]
)
def test_the_nearest_t_that_is_trained_on(schedule, expected):
    found = schedule.nearest_trained(torch.tensor([0.0, 0.4, 4.4, 20.0], dtype=torch.float64))
    assert_close(found, torch.tensor(expected, dtype=found.dtype))


@EVERY
def test_corrupting_gives_the_forward_process_moments(schedule):
    """To five standard errors of 20,000 draws."""
    x, t = (
        torch.tensor([2.0, -1.0, 0.5]),
        torch.tensor([schedule.end * share for share in (0.25, 0.5, 1.0)]).to(
            torch.int64 if schedule.discrete else torch.float64
        ),
    )
    noise = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0))
    x_t = schedule.corrupt(x[:, None].expand_as(noise), noise, t)
    alpha, sigma = (value.float() for value in schedule(t))
    assert ((x_t.mean(1) - alpha * x).abs() < 5 * sigma / 20_000**0.5).all()
    assert ((x_t.std(1) / sigma - 1).abs() < 5 / 40_000**0.5).all()


@EVERY
def test_corrupting_at_0_changes_nothing(schedule):
    x, noise = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert_close(schedule.corrupt(x, noise, torch.zeros(3, dtype=torch.long)), x, rtol=0, atol=0)


@EVERY
def test_corrupting_keeps_the_dtype(schedule):
    inputs = [torch.ones(2, 1, 2, 2, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)]
    assert [schedule.corrupt(x, x, torch.tensor([1, 1])).dtype for x in inputs] == [x.dtype for x in inputs]


@pytest.mark.parametrize(
    "table",
    [[0.5, 0.9], [0.9, 0.9], [1.0, 0.5], [0.9, -0.1], [[0.9, 0.5]], []],
    ids=["rises", "stays", "starts clean", "negative", "two-dimensional", "empty"],
)
def test_bad_tables_are_refused(table):
    with pytest.raises(ValueError, match="must fall strictly"):
        VariancePreserving(torch.tensor(table, dtype=torch.float64))


@pytest.mark.parametrize(
    ("schedule", "name"), [(linear(), "alphas_squared"), (RectifiedFlow(), "shift"), (EDM(), "sigma_max")]
)
def test_a_schedule_is_a_value(schedule, name):
    with pytest.raises(FrozenInstanceError):
        setattr(schedule, name, 2.0)
