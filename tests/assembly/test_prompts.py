"""Prompts with settings of their own: lines with options, mappings, files of either."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm_train.assembly.prompt_options import LETTERS, Prompt, read_line, read_mapping_prompt
from ldm_train.assembly.prompts import parse_prompts, parse_texts
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import SampleSettings

LINE = "a fox --n blurry, text --w 64 --h 96 --d 7 --l 4.5 --s 20"
OPTIONS = {"negative": "blurry, text", "width": 64, "height": 96, "seed": 7, "guidance": 4.5, "steps": 20}


def contents(prompts: list[Prompt]) -> list[dict[str, str | int | float]]:
    return [prompt.as_mapping() for prompt in prompts]


def test_lines_and_mappings_say_the_same(tmp_path: Path) -> None:
    texts = tmp_path / "prompts.txt"
    texts.write_text(f"# two prompts\n{LINE}\n\n  a cat\n")
    as_yaml = tmp_path / "prompts.yaml"
    as_yaml.write_text(
        "- {prompt: a fox, negative: 'blurry, text', width: 64, height: 96, seed: 7, guidance: 4.5, steps: 20}\n- a cat\n"
    )
    as_json = tmp_path / "prompts.json"
    as_json.write_text(json.dumps([{"prompt": "a fox", **OPTIONS}, "a cat"]))
    for given_prompts in (
        str(texts),
        str(as_yaml),
        str(as_json),
        [LINE, "a cat"],
        [{"prompt": "a fox", **OPTIONS}, "a cat"],
    ):
        assert contents(parse_prompts(given_prompts)) == [{"prompt": "a fox", **OPTIONS}, {"prompt": "a cat"}]


@pytest.mark.parametrize("text", ["a fox -- asleep", "well--known", "a #1 fox", "--", "a fox --1", "-d 7", "(fox:1.2)"])
def test_a_text_without_options_stays_as_it_is(text: str) -> None:
    assert contents(parse_prompts([text])) == [{"prompt": text}]


def test_the_text_of_a_mapping_is_taken_as_it_is() -> None:
    assert contents(parse_prompts([{"prompt": "a fox --d 7", "seed": None}])) == [{"prompt": "a fox --d 7"}]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "negative": st.sampled_from(["blurry", "text, logo", "a - b"]),
            "width": st.integers(1, 4096),
            "height": st.integers(1, 4096),
            "seed": st.integers(-(2**50), 2**50),
            "guidance": st.floats(-100, 100),
            "steps": st.integers(1, 1000),
        },
    )
)
def test_a_prompt_is_read_as_it_is_shown(options: dict[str, object]) -> None:
    prompt = read_mapping_prompt({"prompt": "a fox", **options}, "here")
    assert read_line(str(prompt), "here") == prompt


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("a fox --x 7", ["--x", *(f"--{letter} " for letter in LETTERS)]),
        ("a fox --seed 7", ["--seed", "did you mean --d?"]),
        ("a fox --d seven", ["--d seven", "whole number"]),
        ("a fox --d 1.5", ["--d 1.5", "whole number"]),
        ("a fox --w 0", ["--w 0", "from 1 to"]),
        ("a fox --h 99999999", ["--h 99999999", "from 1 to"]),
        ("a fox --s -3", ["--s -3", "from 1 to"]),
        ("a fox --l inf", ["--l inf", "a number"]),
        ("a fox --n --d 7", ["--n has no value"]),
        ("a fox --d 7 --d 8", ["--d", "twice"]),
        ("--d 7", ["'--d 7'", "no prompt"]),
    ],
)
def test_a_bad_line_is_named_with_what_is_accepted(line: str, named: list[str], tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(f"# a comment\na cat\n{line}\n")
    with pytest.raises(ValueError, match=r"prompts\.txt, line 3: ") as raised:
        parse_prompts(str(path))
    for part in named:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("- {prompt: a fox, sede: 7}", ["sede", "seed", "negative, width, height"]),
        ("- {prompt: a fox, seed: true}", ["seed: True", "whole number"]),
        ("- {prompt: a fox, width: 0}", ["width: 0"]),
        ("- {prompt: a fox, negative: [a]}", ["negative: ['a']"]),
        ("- {prompt: a fox, negative: no}", ["negative: False", "quote"]),
        ("- {prompt: null}", ["prompt: None"]),
        ("- {seed: 7}", ["{prompt: a fox, seed: 7}"]),
        ("prompt: a fox", ["a list"]),
        ("- [a", ["line"]),
        ("[]", ["no prompt"]),
    ],
)
def test_a_bad_yaml_file_is_named(content: str, named: list[str], tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"prompts\.yaml") as raised:
        parse_prompts(str(path), setting="pictures.prompts")
    for part in named:
        assert part in str(raised.value)


def test_the_command_line_keeps_texts_and_reads_mappings() -> None:
    words = ["cache=c", "run_dir=r"]
    own = [f'pictures.prompts=["{LINE}",{{prompt: a cat, seed: 7}},{{a|b}} cat]']
    prompts = compose_as(TrainSettings, [*words, *own]).pictures.prompts
    assert contents(parse_prompts(prompts)) == [
        {"prompt": "a fox", **OPTIONS},
        {"prompt": "a cat", "seed": 7},
        {"prompt": "{a|b} cat"},
    ]
    one = compose_as(SampleSettings, ["run_dir=r", "out=o", f"prompts={LINE}"]).prompts
    assert contents(parse_prompts(one)) == [{"prompt": "a fox", **OPTIONS}]


@pytest.mark.parametrize("given_prompts", [["a cat", "a fox --d 7"], [{"prompt": "a fox", "seed": 7}]])
def test_settings_that_take_texts_only_refuse_options(given_prompts: list[object]) -> None:
    with pytest.raises(ValueError, match=r"prior\.prompts") as raised:
        parse_texts(given_prompts, setting="prior.prompts")
    assert "a fox" in str(raised.value)
    assert parse_texts(["a --quick fox"]) == ["a --quick fox"]


def test_evaluate_refuses_options_before_it_draws(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = [f"run_dir={trained}", "prompts=a fox --d 7", f"out={tmp_path}/numbers.json", "device=cpu"]
    answer = ldm_train("evaluate", *words)
    assert answer.code == 1
    assert "--d" in answer.err
    assert not (tmp_path / "numbers.json").exists()
