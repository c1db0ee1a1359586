"""Names that people know from elsewhere are answered with the settings here, and every answer is a setting."""

import pytest

from ldm_train.settings.composition import ConfigError, compose
from ldm_train.settings.foreign_names import NAMES, VALUES
from ldm_train.settings.schema.commands import SCHEMAS
from ldm_train.settings.shipped import groups
from ldm_train.settings.suggestions import option_with

TRAIN = ["cache=x", "run_dir=y"]
SAMPLE = ["run_dir=x", "out=y", "prompts=a"]
ENCODE = ["source.path=x", "cache=y"]


def answer(verb: str, *words: str) -> str:
    with pytest.raises(ConfigError) as refused:
        compose(verb, [*words])
    return str(refused.value)


@pytest.mark.parametrize(
    ("verb", "word", "ours"),
    [
        ("train", "lr=1e-4", "'optimizer.lr'"),
        ("train", "learning_rate=1e-4", "'optimizer.lr'"),
        ("train", "optimizer.learning_rate=1e-4", "'optimizer.lr'"),
        ("train", "+lr=1e-4", "'optimizer.lr'"),
        ("train", "epochs=10", "'max_steps'"),
        ("train", "steps=10", "'max_steps'"),
        ("train", "max_train_steps=10", "'max_steps'"),
        ("train", "train_batch_size=10", "'batch_size'"),
        ("train", "gradient_accumulation_steps=4", "'micro_batch_size'"),
        ("train", "mixed_precision=bf16", "'trainer.precision'"),
        ("train", "lora_rank=4", "'adapter.rank', with adapter=lora"),
        ("train", "resolution=512", "'image_size'"),
        ("train", "use_8bit_adam=true", "'optimizer=adamw_8bit'"),
        ("train", "output_dir=x", "'run_dir'"),
        ("train", "data_dir=x", "'cache'"),
        ("train", "clip_skip=2", "'text_encoder.layer', with text_encoder="),
        ("encode", "resolution=512", "'image_size'"),
        ("encode", "data_dir=x", "'source.path'"),
        ("sample", "width=512", "'size'"),
        ("sample", "init_image=x", "'picture'"),
        ("sample", "num_inference_steps=10", "'steps'"),
        ("sample", "cfg_scale=3", "'guidance.scale'"),
        ("sample", "prompt=a fox", "'prompts'"),
        ("train", "prediction=epsilon", "'noise'"),
        ("train", "prediction=v", "'velocity'"),
        ("train", "prediction=v_prediction", "'velocity'"),
        ("sample", "sampler=euler_a", "'euler_ancestral'"),
        ("train", "schedule=squaredcos_cap_v2", "'cosine'"),
    ],
)
def test_a_name_of_another_program_is_answered_with_the_name_here(verb: str, word: str, ours: str) -> None:
    needed = {"train": TRAIN, "sample": SAMPLE, "encode": ENCODE}[verb]
    assert f"did you mean {ours}" in answer(verb, *needed, word)


def test_every_answer_is_a_setting_of_a_command() -> None:
    answers = {ours for names in NAMES.values() for ours in names}
    known = {ours: [verb for verb in SCHEMAS if option_with(verb, ours.partition("=")[0]) is not None] for ours in answers}
    assert [ours for ours, verbs in known.items() if not verbs] == []
    options = {ours.partition("=")[0]: ours.partition("=")[2] for ours in answers if "=" in ours}
    assert all(option in groups()[group] for group, option in options.items())
    assert all({*values.values()} <= {*groups()[group]} for group, values in VALUES.items())


def test_no_option_that_there_is_has_another_meaning() -> None:
    assert [name for group, values in VALUES.items() for name in values if name in groups()[group]] == []


def test_a_setting_is_not_suggested_to_a_command_without_it() -> None:
    assert "optimizer.lr" not in answer("sample", *SAMPLE, "lr=1")
    assert "picture'" not in answer("train", *TRAIN, "init_image=x")
