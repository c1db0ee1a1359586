"""Learning-rate schedules: a warm-up to 1, and what they promise afterwards."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_train.training.lr_schedules import Constant, Cosine

BOTH = pytest.mark.parametrize("schedule", [Constant, Cosine])


@BOTH
@pytest.mark.parametrize("warmup_steps", [1, 4, 10])
def test_the_warm_up_rises_evenly_to_1(schedule, warmup_steps):
    factors = [schedule(warmup_steps=warmup_steps)(step, 50) for step in range(warmup_steps)]
    assert factors == pytest.approx([(step + 1) / warmup_steps for step in range(warmup_steps)])


@BOTH
@settings(max_examples=30, deadline=None, derandomize=True)
@given(step=st.integers(0, 500), max_steps=st.integers(1, 300), warmup_steps=st.integers(0, 400))
def test_a_factor_is_always_from_0_to_1(schedule, step, max_steps, warmup_steps):
    assert 0 <= schedule(warmup_steps=warmup_steps)(step, max_steps) <= 1


@pytest.mark.parametrize("step", [10, 50, 99, 1000])
def test_constant_stays_at_1(step):
    assert Constant(warmup_steps=10)(step, 100) == 1


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_falls_from_1_by_the_middle_to_its_final_factor(final):
    schedule = Cosine(warmup_steps=20, final=final)
    assert [schedule(step, 120) for step in (20, 70, 120, 500)] == pytest.approx([1, (1 + final) / 2, final, final])
    factors = [schedule(step, 120) for step in range(20, 121)]
    assert factors == sorted(set(factors), reverse=True)
