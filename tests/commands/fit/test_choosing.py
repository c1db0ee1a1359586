"""The choices of `fit`, as pure functions of facts: each follows its rule, and the budget keeps to the minutes."""

from dataclasses import replace

import pytest

from ldm_train.commands.fit import choosing
from ldm_train.commands.fit.choosing import DataFacts, Measured
from ldm_train.settings.composition import compose

FACTS = DataFacts(pictures=300, captions=300, shorter=300, longer=400, cut=0.0, plain=0.0, surroundings="white", named=False)
MEASURED = Measured(psnr=31.0, tokens=10, step_seconds=0.25, encoding_seconds=10.0)
VALUES: choosing.Values = {"batch_size": 24, "held_out": 0.08}


def view(**changes: object) -> choosing.Values:
    return choosing.choose_view(replace(FACTS, **changes), gpu=False, minutes=30)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "crop"),
    [
        ({"cut": 0.03, "plain": 1.0}, "centre"),  # nearly square: a smaller picture is not worth it
        ({"cut": 0.15, "plain": 0.8}, "fit"),
        ({"cut": 0.15, "plain": 0.2}, "centre"),
        ({"cut": 0.4, "plain": 0.0}, "fit"),
    ],
)
def test_the_crop_follows_what_the_centre_would_cut(changes: dict, crop: str) -> None:
    assert view(**changes)["crop"] == crop


@pytest.mark.parametrize(
    ("shorter", "longer", "cut", "side"), [(300, 400, 0.0, 64), (50, 70, 0.0, 48), (50, 70, 0.3, 64), (9, 9, 0.0, 16)]
)
def test_pictures_are_not_enlarged(shorter: int, longer: int, cut: float, side: int) -> None:
    """A crop cuts to the shorter side, `fit` reduces the longer one."""
    assert view(shorter=shorter, longer=longer, cut=cut)["image_size"] == side


def test_a_gpu_gets_larger_pictures_and_a_larger_network() -> None:
    large = choosing.choose_view(replace(FACTS, shorter=900), gpu=True, minutes=30)
    assert large["image_size"] == 256
    assert choosing.choose_view(replace(FACTS, shorter=900), gpu=True, minutes=5)["image_size"] == 128
    assert choosing.choose_recipe(256, gpu=True, pixels=False)["network"] == "unet_base"
    assert choosing.choose_recipe(64, gpu=False, pixels=False)["network"] == "unet_small"


@pytest.mark.parametrize(
    ("gpu", "bfloat16", "precision"), [(False, True, "bf16-mixed"), (False, False, None), (True, True, None)]
)
def test_a_cpu_that_multiplies_bfloat16_trains_in_it(gpu: bool, bfloat16: bool, precision: str | None) -> None:
    """A GPU's precision is chosen by `auto`."""
    recipe = choosing.choose_recipe(64, gpu=gpu, pixels=False, bfloat16=bfloat16)
    assert recipe.get("trainer.precision") == precision


def test_plain_surroundings_go_on_around_the_picture() -> None:
    assert view(plain=0.9, cut=0.3, surroundings="#000000")["background"] == "#000000"
    assert "background" not in view(plain=0.9, cut=0.0, surroundings="#000000")  # nothing is added


@pytest.mark.parametrize(("pictures", "share"), [(12, 0.0), (59, 0.0), (100, 0.1), (300, 0.08), (5000, 0.05)])
def test_a_handful_is_not_held_out(pictures: int, share: float) -> None:
    assert choosing.choose_held_out(replace(FACTS, pictures=pictures)) == {"held_out": share}


@pytest.mark.parametrize(("recognised", "enough"), [(60_000, True), (420_000, False)])
def test_the_expectation_is_in_minutes_of_this_machine(recognised: int, enough: bool) -> None:
    measured = replace(MEASURED, recognised=recognised, sharp=2 * recognised)
    budget = choosing.Budget(step=0.24, encoding=0, adapting=0, ending=0, steps=5000, watches=6)
    line = choosing.expect_pictures(measured, budget, 24)
    assert line is not None
    assert [f"({recognised // 6000} minutes here)" in line, "(20 minutes here)" in line, "more minutes" in line] == [
        True,
        True,
        not enough,
    ]


def test_nothing_is_expected_of_what_was_not_measured() -> None:
    budget = choosing.Budget(step=0.24, encoding=0, adapting=0, ending=0, steps=5000, watches=6)
    assert choosing.expect_pictures(MEASURED, budget, 24) is None


def test_held_out_pictures_that_the_source_names_stay() -> None:
    assert choosing.choose_held_out(replace(FACTS, named=True)) == {}


@pytest.mark.parametrize(("tokens", "length"), [(5, None), (16, None), (17, 24), (40, 40), (200, 77)])
def test_captions_are_read_to_their_end(tokens: int, length: int | None) -> None:
    assert choosing.choose_context(tokens).get("text_encoder.context_length") == length


@pytest.mark.parametrize(
    ("psnr", "minutes", "adapts"), [(20, 30, True), (20, 10, False), (30, 30, False), (None, 30, False)]
)
def test_an_autoencoder_is_adapted_if_it_is_poor_and_there_is_time(psnr: float | None, minutes: float, adapts: bool) -> None:
    assert choosing.needs_adapting(replace(MEASURED, psnr=psnr), minutes) == adapts


@pytest.mark.parametrize(
    ("psnr", "minutes", "pixels"), [(15, 10, True), (15, 30, False), (22, 10, False), (None, 10, False)]
)
def test_pixels_are_better_than_a_bad_autoencoder(psnr: float | None, minutes: float, pixels: bool) -> None:
    assert choosing.needs_pixels(replace(MEASURED, psnr=psnr), minutes) == pixels


def plan(left: float, values: choosing.Values = VALUES, *, step: float = 0.25, **changes: object) -> choosing.Budget:
    arguments = {"encoding": 10.0, "adapts": False, "base": False, "facts": FACTS, **changes}
    return choosing.plan_budget(left, values=values, step=step, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("left", [300.0, 1800.0, 20000.0])
@pytest.mark.parametrize("adapts", [False, True])
@pytest.mark.parametrize("step", [0.02, 0.25])
def test_all_stages_together_take_what_is_left(left: float, adapts: bool, step: float) -> None:
    budget = plan(left, step=step, adapts=adapts)
    watched = budget.watches * choosing.WATCHED * choosing.SAMPLER_PASSES * step / 24 / 3
    total = budget.training + budget.encoding + budget.adapting + budget.ending + watched
    assert total == pytest.approx(left, abs=2 * step)
    assert (budget.adapting > 0) == adapts
    assert budget.watches == 1 or watched <= 0.1 * left


def test_longer_captions_take_longer_steps() -> None:
    long: choosing.Values = {**VALUES, "text_encoder.context_length": 77}
    assert choosing.estimate_step(MEASURED, long) == pytest.approx(1.5 * choosing.estimate_step(MEASURED, VALUES))


def test_a_base_is_not_trained_on_a_picture_for_ever() -> None:
    steps = plan(36_000, facts=replace(FACTS, pictures=12), base=True).steps
    assert steps == -(-choosing.BASE_EXAMPLES * 12 // 24)


def test_too_few_minutes_are_refused_with_what_the_rest_takes() -> None:
    with pytest.raises(ValueError, match=r"minutes.*0\.25 s"):
        plan(30)


@pytest.mark.parametrize(("steps", "off"), [(1000, False), (1100, False), (900, False), (1200, True), (800, True)])
def test_a_plan_changes_if_many_more_or_fewer_steps_fit(steps: int, off: bool) -> None:
    assert choosing.is_off(steps, 1000) == off


@pytest.mark.parametrize("steps", [12, 300, 2400, 100_000])
def test_what_goes_with_the_steps_fits_into_them(steps: int) -> None:
    values = choosing.choose_length(steps)
    assert values["lr_schedule.warmup_steps"] <= steps / 10  # type: ignore[operator]
    assert 1 <= values["validation.every"] <= steps  # type: ignore[operator]
    assert 0.8 < values["ema.decay"] < 1  # type: ignore[operator]


def test_the_average_is_the_quick_starts_at_its_steps() -> None:
    assert choosing.choose_length(2400)["ema.decay"] == 0.999


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("pixels", [False, True])
def test_the_values_are_settings_and_have_rules(gpu: bool, pixels: bool) -> None:
    side = 256 if gpu else 16 if pixels else 64
    recipe = choosing.choose_recipe(side, gpu=gpu, pixels=pixels, bfloat16=True)
    values = {**recipe, **choosing.choose_held_out(FACTS), **choosing.choose_length(1000), "image_size": side}
    compose("train", ["cache=x", "run_dir=x", *(f"{name}={value}" for name, value in values.items())])
    assert {name for name in values if name not in choosing.RULES} <= {
        *("pictures.every", "metrics.every", "metrics.count", "checkpoint.every")
    }
