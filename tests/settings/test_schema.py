"""The schema of every command: each setting has a type, a default within it, help, and what a continued run may change."""

import inspect
import re
from typing import Annotated, Any

import pytest
from pydantic import ConfigDict, TypeAdapter

from ldm_train.settings.schema.commands import CONTINUED, SCHEMAS, default_values, kind_of, may_change, own_settings
from ldm_train.settings.schema.kinds import Section, describe, problems_of
from ldm_train.settings.schema.options import TrainerSettings, list_part_groups
from ldm_train.settings.shipped import groups_of as groups_of_config

OWN = {**{verb: own_settings(verb) for verb in SCHEMAS}, "trainer": TrainerSettings.model_fields}
PLAIN = {
    verb: {name: info for name, info in settings.items() if not isinstance(info.default, Section)}
    for verb, settings in OWN.items()
}


@pytest.mark.parametrize("verb", SCHEMAS)
def test_a_schema_has_the_groups_of_the_shipped_config(verb: str) -> None:
    shipped = groups_of_config(verb)
    assert {group: shipped[group] for group in list_part_groups(SCHEMAS[verb])} == list_part_groups(SCHEMAS[verb])
    assert shipped.keys() - list_part_groups(SCHEMAS[verb]) <= {"memory", "experiment"}


@pytest.mark.parametrize("verb", OWN)
def test_every_setting_has_a_help_text(verb: str) -> None:
    sections = {name: inspect.getdoc(type(info.default)) for name, info in OWN[verb].items() if name not in PLAIN[verb]}
    helps = sections | {name: info.description for name, info in PLAIN[verb].items()}
    assert [name for name, text in helps.items() if not text] == []


@pytest.mark.parametrize("verb", PLAIN)
def test_every_default_is_of_its_own_type_and_range(verb: str) -> None:
    for name, info in PLAIN[verb].items():
        if not info.is_required():
            kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
            assert TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(info.default) == info.default, name
            assert list(problems_of(info.default, info.annotation, name, info.metadata)) == []


@pytest.mark.parametrize("verb", PLAIN)
def test_every_type_is_described_in_words(verb: str) -> None:
    for name, info in PLAIN[verb].items():
        words = describe(info.annotation, info.metadata)
        assert words not in ("", "any value", "a mapping"), name
        assert not re.search(r"typing|NoneType|Annotated|True|False", words), name


def test_check_has_the_defaults_of_training_and_of_encoding() -> None:
    check, train, encode = (default_values(verb) for verb in ("check", "train", "encode"))
    own = {"cache", "run_dir", "image_size", "strict"}
    assert {name: check[name] for name in train.keys() - own} == {name: train[name] for name in train.keys() - own}
    renamed = {"batch_size": "encode_batch_size"}
    shared = encode.keys() - own - {"workers"}
    assert {name: check[renamed.get(name, name)] for name in shared} == {name: encode[name] for name in shared}
    assert check["image_size"] == encode["image_size"]


@pytest.mark.parametrize(
    ("name", "may"),
    [
        *[(name, True) for name in ("run_dir", "cache", "max_steps", "micro_batch_size", "threads", "workers")],
        *[
            (name, True)
            for name in ("checkpoint", "checkpoint.every", "pictures.prompts", "metrics.every", "validation.bins")
        ],
        *[
            (name, True)
            for name in ("sampler", "sampler.eta", "sampler._target_", "guidance.scale", "spacing", "logger.tags")
        ],
        *[(name, True) for name in ("source.path", "features", "evaluation.seeds", "autoencoder.weights")],
        *[(name, True) for name in ("trainer.devices", "trainer.strategy", "ema.snapshot_every", "optimizer.fused")],
        *[
            (name, True)
            for name in ("network.gradient_checkpointing", "compile", "channels_last", "draw_ahead", "fused_backward")
        ],
        *[(name, False) for name in ("batch_size", "seed", "caption_dropout", "offset_noise", "trained", "cache_shares")],
        *[(name, False) for name in ("optimizer.lr", "optimizer", "lr_schedule.warmup_steps", "ema.decay", "ema._target_")],
        *[(name, False) for name in ("network.channels", "network.weights", "schedule", "prediction", "weighting.gamma")],
        *[(name, False) for name in ("trainer.precision", "trainer.gradient_clip_val", "trainer.nothing", "prior.count")],
        *[
            (name, False)
            for name in ("autoencoder.scale", "text_encoder", "adapter.rank", "image_size", "nothing", "trainer")
        ],
    ],
)
def test_what_a_continued_run_may_change(name: str, may: bool) -> None:
    assert may_change("train", name) is may


@pytest.mark.parametrize("verb", CONTINUED)
def test_a_section_may_change_as_its_settings_may(verb: str) -> None:
    for name, info in own_settings(verb).items():
        if isinstance(info.default, Section):
            inner = {may_change(verb, other) for other in own_settings(verb) if other.startswith(f"{name}.")}
            assert inner == {may_change(verb, name)}, name


def test_the_kind_of_a_setting_is_that_of_the_chosen_constructor() -> None:
    folder = {"source": "ldm_train.data.sources.folder.Folder"}
    shards = {"source": "ldm_train.data.sources.tar_shards.TarShards"}
    several, one = kind_of("encode", "source.path", shards), kind_of("encode", "source.path", folder)
    assert several is not None
    assert one is not None
    assert (describe(*one), describe(*several)) == ("a path", "a path or a list of paths")
    assert kind_of("encode", "source", folder) is None
    assert kind_of("encode", "nothing.path", folder) is None
