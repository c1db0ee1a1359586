"""Learning-rate schedules: a warm-up to 1, what they promise afterwards, and a cool-down, in optimizer steps."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_train.training.optimization.lr_schedules import Constant, Cosine, InverseSqrt, Linear

Decaying = partial(InverseSqrt, decay_after=400)
EACH = pytest.mark.parametrize("schedule", [Constant, Cosine, Linear, Decaying])


@EACH
@pytest.mark.parametrize("warmup_steps", [1, 4, 10])
def test_the_warm_up_rises_evenly_to_1(schedule, warmup_steps):
    factors = [schedule(warmup_steps=warmup_steps)(step, 50) for step in range(warmup_steps)]
    assert factors == pytest.approx([(step + 1) / warmup_steps for step in range(warmup_steps)])


@EACH
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


@pytest.mark.parametrize("final", [0.0, 0.3])
@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_constant_and_cosine_without_a_cool_down_are_to_the_bit_what_they_were(warmup_steps, final):
    """Runs that are continued must go on at their rate."""
    cosine, constant = Cosine(warmup_steps=warmup_steps, final=final), Constant(warmup_steps=warmup_steps)
    for step in range(45):
        share = min(1.0, (step - warmup_steps) / max(1, 40 - warmup_steps))
        rising = (step + 1) / warmup_steps if step < warmup_steps else None
        curve = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))
        assert cosine(step, 40) == (curve if rising is None else rising)
        assert constant(step, 40) == (1.0 if rising is None else rising)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.05), (19, 1), (20, 1), (45, 0.775), (70, 0.55), (119, 0.109), (120, 0.1), (500, 0.1)]
)
def test_linear_is_a_line_from_the_warm_up_to_its_final_factor(step, factor):
    assert Linear(warmup_steps=20, final=0.1)(step, 120) == pytest.approx(factor)


@pytest.mark.parametrize("max_steps", [1, 1000, 10**6])
@pytest.mark.parametrize(("step", "factor"), [(0, 0.1), (9, 1), (50, 1), (100, 1), (400, 1 / 2), (2500, 1 / 5)])
def test_inverse_sqrt_is_halved_after_four_times_as_many_steps_whatever_the_length_of_the_run(step, factor, max_steps):
    assert InverseSqrt(decay_after=100, warmup_steps=10)(step, max_steps) == pytest.approx(factor)


# The cool-down

COOLING = [
    pytest.param(partial(Constant, cooldown_steps=25), [1, 0.8, 0.04, 0, 0], id="constant"),
    pytest.param(partial(Constant, cooldown_steps=25, final=0.5), [1, 0.9, 0.52, 0.5, 0.5], id="constant to a half"),
    pytest.param(partial(Linear, cooldown_steps=25), [0.25, 0.2, 0.01, 0, 0], id="linear"),
    pytest.param(
        partial(InverseSqrt, decay_after=20, cooldown_steps=20), [0.5, 0.5, 0.025, 0, 0], id="inverse sqrt of 80 / 20 steps"
    ),
]


@pytest.mark.parametrize(("schedule", "factors"), COOLING)
def test_a_cool_down_is_a_line_from_where_the_shape_is_to_the_final_factor(schedule, factors):
    cooling = schedule()
    start = 100 - cooling.cooldown_steps
    assert [cooling(step, 100) for step in (start, 80, 99, 100, 300)] == pytest.approx(factors)


def test_the_cool_down_of_a_cosine_leaves_it_where_it_begins():
    cooling, plain = Cosine(warmup_steps=20, cooldown_steps=50, final=0.2), Cosine(warmup_steps=20, final=0.2)
    assert cooling(70, 120) == plain(70, 120) == pytest.approx(0.6)
    assert [cooling(step, 120) for step in (95, 119, 120)] == pytest.approx([0.4, 0.208, 0.2])


@EACH
@settings(max_examples=30, deadline=None, derandomize=True)
@given(max_steps=st.integers(1, 300), data=st.data())
def test_a_cool_down_changes_no_step_before_it_and_never_rises(schedule, max_steps, data):
    warmup_steps = data.draw(st.integers(0, max_steps))
    cooldown_steps = data.draw(st.integers(1, max_steps - warmup_steps)) if warmup_steps < max_steps else 0
    cooling, plain = schedule(warmup_steps=warmup_steps, cooldown_steps=cooldown_steps), schedule(warmup_steps=warmup_steps)
    cooling.check(max_steps)
    start = max_steps - cooldown_steps
    assert [cooling(step, max_steps) for step in range(start)] == [plain(step, max_steps) for step in range(start)]
    end = [cooling(step, max_steps) for step in range(start, max_steps + 1)]
    assert end == sorted(end, reverse=True)
    assert cooldown_steps == 0 or end[-1] == 0 < end[-2]


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(warmup_steps=-1), "warmup_steps=-1 must be at least 0"),
        (lambda: Linear(cooldown_steps=-5), "cooldown_steps=-5 must be at least 0"),
        (lambda: Cosine(final=-0.1), "final=-0.1 must be from 0 to 1"),
        (lambda: Linear(final=2), "final=2 must be from 0 to 1"),
        (lambda: InverseSqrt(decay_after=0), "decay_after=0 must be at least 1"),
        (lambda: InverseSqrt(decay_after=10, warmup_steps=20), "at least lr_schedule.warmup_steps=20"),
        (lambda: Constant(final=0.5), "final=0.5 has no effect without a cool-down"),
        (lambda: InverseSqrt(decay_after=10, final=0.5), "final=0.5 has no effect without a cool-down"),
        (lambda: Constant(warmup_steps=60, cooldown_steps=41).check(100), "101 steps together, more than max_steps=100"),
        (lambda: Decaying(cooldown_steps=400, final=0.6).check(2000), r"final=0.6 is above the factor 0.5 at which"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@EACH
def test_warm_up_and_cool_down_may_fill_a_run(schedule):
    filled = schedule(warmup_steps=60, cooldown_steps=40)
    filled.check(100)
    assert [filled(step, 100) for step in (59, 60, 80, 100)] == pytest.approx([1, 1, 0.5, 0])


@pytest.mark.parametrize("verb", ["train", "train_autoencoder"])
def test_a_cool_down_that_does_not_fit_is_refused_before_anything_is_written(
    verb: str, cache: Path, pictures: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    data = f"cache={cache}" if verb == "train" else f"source.path={pictures}"
    words = ["max_steps=8", "lr_schedule.warmup_steps=2", "lr_schedule.cooldown_steps=7"]
    answer = ldm_train(verb, data, f"run_dir={tmp_path}/run", *words)
    assert answer.code == 1
    assert "lr_schedule.cooldown_steps=7 take 9 steps together, more than max_steps=8" in answer.err
    assert not (tmp_path / "run").exists()


# Whole runs

RUNS = [
    pytest.param(["lr_schedule=linear", "lr_schedule.final=0.1"], Linear(warmup_steps=2, final=0.1), id="linear"),
    pytest.param(
        ["lr_schedule=cosine", "lr_schedule.cooldown_steps=3"], Cosine(warmup_steps=2, cooldown_steps=3), id="cosine"
    ),
    pytest.param(
        ["lr_schedule=inverse_sqrt", "lr_schedule.decay_after=3", "lr_schedule.cooldown_steps=2"],
        InverseSqrt(decay_after=3, warmup_steps=2, cooldown_steps=2),
        id="inverse sqrt",
    ),
]


@pytest.mark.parametrize(("words", "schedule"), RUNS)
@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_a_runs_rates_are_of_optimizer_steps_however_many_micro_batches_they_take(
    words: list[str], schedule: Callable, micro_batch_size: int | None, run_with: Callable
) -> None:
    """The optimizer's updates are what moves the rate on; a line tells the rate that its step has left."""
    divided = [] if micro_batch_size is None else [f"micro_batch_size={micro_batch_size}"]
    run_dir = run_with(*words, "lr_schedule.warmup_steps=2", "validation.every=8", "pictures.every=8", *divided)
    rates = [json.loads(line)["lr"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert rates == [1e-3 * schedule(step, 8) for step in range(8)]
    state = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["lr_schedulers"][0]
    assert state["last_epoch"] == 8
