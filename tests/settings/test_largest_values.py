"""A setting that sizes or times follow has a largest value; a model larger than memory is refused before it is built."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ldm_train.assembly.parts import build_parts
from ldm_train.autoencoders.autoencoder import NewKLAutoencoder
from ldm_train.conditioners.text_encoder import small
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.composition import compose, defaults
from ldm_train.settings.schema.largest_values import largest
from ldm_train.settings.schema.options import dict_settings
from ldm_train.settings.shipped import folder, groups
from ldm_train.settings.validation import out_of_range
from tests.settings.test_values import NEEDED

HUGE = 10**15
# Whole numbers that nothing grows with.
FREE = {
    *("seed", "to_seed", "prior.seed", "pictures.seed", "metrics.seed", "step"),
    *("checkpoint.every", "checkpoint.keep_every", "validation.every", "health.every", "pictures.every", "metrics.every"),
    *("max_nonfinite_steps", "trainer.log_every_n_steps", "text_encoder.pad_token", "pixels.bits"),
}


@pytest.mark.parametrize("verb", sorted(NEEDED))
def test_every_whole_number_has_a_largest_value_or_is_known_to_need_none(verb: str) -> None:
    config = defaults(verb)
    numbers = [name for name, value in leaves_of(config) if isinstance(value, int) and not isinstance(value, bool)]
    assert not [name for name in numbers if largest(name) is None and name not in FREE]


def leaves_of(config: object) -> list[tuple[str, object]]:
    assert OmegaConf.is_config(config)
    plain = OmegaConf.to_container(config, throw_on_missing=False)
    assert isinstance(plain, dict)
    every = [(name, one) for name, value in dict_settings(plain) for one in (value if isinstance(value, list) else [value])]
    return [(name, value) for name, value in every if value != "???"]


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        *[("train", f"{name}={HUGE}") for name in ("batch_size", "micro_batch_size", "max_steps", "pictures.count")],
        *[("train", f"network.channels=[{HUGE},8]"), ("train", f"network.blocks={HUGE}")],
        ("train", f"schedule.num_steps={HUGE}"),
        *[("encode", f"text_encoder.{name}={HUGE}") for name in ("layers", "width", "heads", "context_length", "chunks")],
        *[("encode", f"{name}={HUGE}") for name in ("image_size", "batch_size", "workers")],
        *[("sample", f"{name}={HUGE}") for name in ("steps", "count", "interpolate", "batch_size")],
        *[("sample", f"size=[{HUGE},8]"), ("sample", f"x.steps=[{HUGE}]"), ("evaluate", f"sweep.steps=[{HUGE}]")],
        *[("train_autoencoder", f"architecture.{name}={HUGE}") for name in ("blocks", "latent_channels", "groups")],
        ("check", f"metrics.count={HUGE}"),
    ],
)
def test_a_value_beyond_it_is_named_with_what_is_accepted(verb: str, word: str) -> None:
    name = word.partition("=")[0]
    reasons = out_of_range(compose(verb, [*NEEDED[verb], word]))
    assert [reason for reason in reasons if reason.startswith(f"{name}={HUGE}") and f"{largest(name):,}" in reason]


@pytest.mark.parametrize("group", ["network", "text_encoder", "architecture", "adapter", "schedule", "crop"])
def test_what_is_shipped_is_within(group: str) -> None:
    for option in groups()[group]:
        config = OmegaConf.create({group: OmegaConf.load(folder() / group / f"{option}.yaml")})
        assert [value for name, value in leaves_of(config) if over(name, value)] == []


def over(name: str, value: object) -> bool:
    limit = largest(name)
    return isinstance(value, int) and limit is not None and value > limit


def test_models_that_no_memory_holds_are_refused_before_they_are_built(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"text_encoder has [\d,]+ weights"):
        small(width=2**16, layers=1000)
    with pytest.raises(ValueError, match=r"architecture has [\d,]+ weights"):
        NewKLAutoencoder([2**16, 2**16])
    settings = read_trained(trained)
    network = settings.network.with_values(channels=[2**16, 2**16], attention=[False, False])
    with pytest.raises(ValueError, match=r"network has [\d,]+ weights"):
        build_parts(settings.with_values(network=network))


def test_an_encoder_of_a_billion_layers_is_refused_at_once(pictures: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("encode", f"source.path={pictures}", f"cache={tmp_path / 'cache'}", "text_encoder.layers=1000000000")
    assert answer.code == 1
    assert "text_encoder.layers=1000000000" in answer.err
    assert list(tmp_path.iterdir()) == []
