"""A run that stays loaded draws what `ldm-train sample` draws, whatever was drawn or failed before."""

import re
import shlex
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm_train.assembly.prompt_options import Prompt, read_line
from ldm_train.assembly.prompts import parse_prompts
from ldm_train.assembly.sample_command import write_sample_command
from ldm_train.assembly.stored_run import open_run
from ldm_train.assembly.studio import Cancelled, Studio
from ldm_train.assembly.studio_settings import list_change_words
from ldm_train.assembly.trained_part import parameters_of
from ldm_train.run_dir.record import LAST
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.settings.shipped import ConfigError
from ldm_train.util.messages import Caution
from ldm_train.weights.tensor_files import write_tensor_file

PROMPT = "a black circle on a red background"
QUICK = {"steps": 2}


def read_settings(run_dir: Path, *words: str) -> SampleSettings:
    return compose_as(SampleSettings, [f"run_dir={run_dir}", "out=pictures", "prompts=x", "device=cpu", *words])


@pytest.fixture(scope="module")
def studio(trained: Path) -> Studio:
    return Studio(read_settings(trained, "steps=4"))


@pytest.fixture
def draw_by_command(ldm_train: Callable, tmp_path: Path) -> Callable[..., bytes]:
    """`draw_by_command(*words)`: the bytes of the first picture that `ldm-train sample` draws."""

    def draw(*words: str) -> bytes:
        answer = ldm_train("sample", *words, f"out={tmp_path / 'drawn'}")
        assert answer.code == 0, answer.err
        return (tmp_path / "drawn" / "0000.png").read_bytes()

    return draw


def test_a_picture_is_that_of_the_command(studio: Studio, trained: Path, draw_by_command: Callable) -> None:
    words = ["sampler=heun", "steps=3", "guidance.scale=2.5", "seed=5"]
    drawn = studio.draw({"sampler": "heun", "steps": 3, "guidance.scale": 2.5, "seed": 5}, PROMPT)
    assert drawn.png == draw_by_command(f"run_dir={trained}", "device=cpu", f"prompts={PROMPT}", *words)
    assert drawn.png == studio.draw(words, PROMPT).png
    assert drawn.png != studio.draw({}, PROMPT).png


@pytest.mark.parametrize("changes", ["text", "sampler", "picture", "size"])
def test_the_command_of_a_picture_draws_the_same_bytes(
    changes: str, studio: Studio, pictures: Path, draw_by_command: Callable, tmp_path: Path
) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save(tmp_path / "a mask.png")
    start = {"picture": pictures / "circle-red.png", "mask": tmp_path / "a mask.png", "strength": 0.5, "mask_edge": 0}
    given: dict[str, dict[str, object]] = {
        "text": {"negative_prompt": 'blurry, "bad"', "seed": 11},
        "sampler": {"sampler": "euler_ancestral", "spacing": "karras", "guidance.interval": [0.1, 5.0]},
        "picture": {name: str(value) if isinstance(value, Path) else value for name, value in start.items()},
        "size": {"size": [16, 24]},
    }
    drawn = studio.draw(given[changes], f'{PROMPT}, "so" --n on', number=3)
    assert drawn.number == 3
    _, _, *words = shlex.split(drawn.command)
    assert draw_by_command(*words) == drawn.png


@pytest.mark.parametrize(
    "text",
    [
        *("", " a ", "null", "prompts.txt", "~/x", "a, b", "{prompt: x}", "[a]", '"a"', "'", 'say "a" \\', "a\nb", "é ☃"),
        *("it's $HOME", "a --n b", "x=1", "100 %", "a: b # c", "yes", "1e3"),
    ],
)
def test_any_text_survives_the_command_line(text: str) -> None:
    settings = read_settings(Path("none")).with_values(negative_prompt=text)
    for prompt in (Prompt(text, ""), Prompt(text, "", negative="--d 5", seed=7)):
        program, verb, *words = shlex.split(write_sample_command(settings, prompt))
        assert (program, verb) == ("ldm-train", "sample")
        again = compose_as(SampleSettings, words)
        assert [one.as_mapping() for one in parse_prompts(again.prompts)] == [prompt.as_mapping()]
        assert again.with_values(prompts=None) == settings.with_values(prompts=None)


@pytest.mark.parametrize("changes", [{"negative_prompt": "${oc.env:HOME}"}, {"map.depth": "a/${now:%Y}.png"}])
def test_texts_are_not_replaced(changes: dict[str, object]) -> None:
    """Changes come from a served page too, which must not read the environment."""
    with pytest.raises(ConfigError, match=r"\$\{"):
        list_change_words(changes)


def test_settings_of_every_kind_survive_the_command_line() -> None:
    words = ["size=[16,32]", "number.age=30", "map.depth=a b.png", "adapters={a b:0.5,c.safetensors:-1}", "seed=-3"]
    settings = read_settings(Path("a run"), *words, "embeddings=[x,y z]", "moved={old:new one}", "guidance=classifier_free")
    _, _, *again = shlex.split(write_sample_command(settings, Prompt("a", "")))
    assert compose_as(SampleSettings, again).with_values(prompts=None) == settings.with_values(prompts=None)


def test_a_prompt_with_settings_of_its_own_is_that_of_a_line(
    studio: Studio, trained: Path, draw_by_command: Callable
) -> None:
    line = f"{PROMPT} --n blurry --d 7 --s 2"
    drawn = studio.draw({}, read_line(line, ""))
    assert drawn.png == draw_by_command(f"run_dir={trained}", "device=cpu", "steps=4", f"prompts={line}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stepps": 3}, ["stepps", "'steps'"]),
        ({"steps": 0}, ["steps=0", "at least 1"]),
        ({"steps": "many"}, ["steps=many", "whole number"]),
        ({"sampler": "hein"}, ["sampler=hein", "'heun'"]),
        ({"mask": "a.png"}, ["mask=a.png", "picture=FILE"]),
        ({"number.age": 3}, ["number.age=3"]),
        ({"size": [16, 15]}, ["size=[16, 15]"]),
        ({"adapters": "nowhere"}, ["nowhere"]),
        ({"run_dir": "nowhere"}, ["nowhere"]),
        ({"out": "elsewhere"}, ["start again with out=…"]),
        (["trust=os"], ["start again with trust=…"]),
        (["config=a.yaml"], ["config"]),
        ({"x.seed": [0, 1]}, ["x.seed"]),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_changes_nothing(changes: dict, words: list[str], studio: Studio) -> None:
    before = studio.draw(QUICK, PROMPT).png
    with pytest.raises((ConfigError, ValueError)) as raised:
        studio.draw(changes, PROMPT)
    assert all(word in str(raised.value) for word in words)
    assert studio.draw(QUICK, PROMPT).png == before


def test_a_drawing_is_cancelled_between_steps(studio: Studio) -> None:
    before, seen = studio.draw({}, PROMPT).png, list[tuple[int, int]]()
    with pytest.raises(Cancelled):
        studio.draw({}, PROMPT, on_progress=lambda *step: seen.append(step), should_stop=lambda: len(seen) == 2)
    assert seen == [(1, 4), (2, 4)]
    assert studio.draw({}, PROMPT).png == before


def test_an_interpolation_is_cancelled_between_steps_and_has_messages(studio: Studio) -> None:
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) == 2

    with pytest.raises(Cancelled):
        studio.interpolate({}, (PROMPT, "a square"), count=2, to_seed=1, should_stop=should_stop)
    assert len(asked) == 2
    found = studio.interpolate(QUICK, (PROMPT, "word " * 100), count=2, to_seed=1)
    assert len(found.pictures) == 2
    assert [message for message in found.messages if isinstance(message, Caution) and message.startswith("prompt")]


@pytest.mark.parametrize(("strength", "count"), [(None, 4), (0.5, 2)])
def test_each_step_has_a_preview_and_the_last_is_the_picture(
    strength: float | None, count: int, studio: Studio, pictures: Path
) -> None:
    seen: list[tuple[int, int, Tensor]] = []
    start = {} if strength is None else {"picture": str(pictures / "circle-red.png"), "strength": strength}
    drawn = studio.draw({"sampler": "ddim", **start}, PROMPT, on_step=lambda *step: seen.append(step))
    assert [step[:2] for step in seen] == [(number, count) for number in range(1, count + 1)]
    assert (seen[-1][2].int() - drawn.image.int()).abs().max() <= 1
    assert all(image.shape == drawn.image.shape and image.dtype == torch.uint8 for _, _, image in seen)


@pytest.fixture(scope="module")
def adapters(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of two adapters of different layers of the tiny run."""
    weights = parameters_of(open_run(read_settings(trained)).parts)
    layers = [
        name for name, p in weights.items() if name.startswith("network.") and name.endswith(".weight") and p.ndim == 2
    ]
    assert len(layers) > 1
    folder, files = tmp_path_factory.mktemp("adapters"), []
    for number, layer in enumerate(layers[:2]):
        name, (rows, columns) = layer.removesuffix(".weight"), weights[layer].shape
        pair = {f"{name}.lora_A.weight": torch.full((2, columns), 0.3), f"{name}.lora_B.weight": torch.full((rows, 2), 0.3)}
        files.append(str(folder / f"{number}.safetensors"))
        write_tensor_file(Path(files[-1]), pair, {"alpha": 2})
    return files


def test_factors_of_adapters_change_without_a_trace(
    studio: Studio, trained: Path, adapters: list[str], draw_by_command: Callable
) -> None:
    without = studio.draw(QUICK, PROMPT)
    loaded = studio._find(studio.settings).trained
    for factors in ([0.3, 0.0], [1.0, -0.5], [0.25, 1.0]):
        chosen = {path: factor for path, factor in zip(adapters, factors, strict=True) if factor}
        drawn = studio.draw({**QUICK, "adapters": chosen}, PROMPT)
        _, _, *words = shlex.split(drawn.command)
        assert drawn.png == draw_by_command(*words)
        assert (drawn.image != without.image).any()
    assert studio.draw(QUICK, PROMPT).png == without.png
    assert studio._find(studio.settings).trained is loaded


def test_newer_weights_are_loaded_when_they_are_there(trained: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    studio = Studio(read_settings(run_dir, "steps=2"))
    before = studio.draw({}, PROMPT)
    assert not studio.refresh()
    checkpoint = torch.load(run_dir / LAST, weights_only=True)
    whole = (run_dir / LAST).read_bytes()
    (run_dir / LAST).write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=re.escape(str(LAST))):
        studio.refresh()
    assert studio.draw({}, PROMPT).png == before.png, "the older weights remain"
    average = checkpoint["callbacks"]["EMA"]["average"]
    checkpoint["global_step"] = 9
    checkpoint["callbacks"]["EMA"]["average"] = {name: tensor * 1.1 for name, tensor in average.items()}
    torch.save(checkpoint, run_dir / LAST)
    assert studio.refresh()
    assert not studio.refresh()
    after = studio.draw({}, PROMPT)
    assert studio.step == 9
    assert (after.image != before.image).any()


def test_threads_draw_in_turn_what_they_draw_alone(studio: Studio) -> None:
    alone = [studio.draw({**QUICK, "seed": seed}, PROMPT).png for seed in range(4)]
    drawn: dict[int, bytes] = {}

    def draw(seed: int) -> None:
        drawn[seed] = studio.draw({**QUICK, "seed": seed}, PROMPT).png

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [drawn[seed] for seed in range(4)] == alone


def test_at_most_three_runs_stay_loaded(studio: Studio, trained: Path, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).symlink_to(trained)
        studio.draw({"run_dir": str(tmp_path / str(number)), "steps": 1}, PROMPT)
    assert len(studio._opened) == 3
    assert studio.draw({"steps": 1}, PROMPT).image.shape == (3, 16, 16)


def test_messages_are_values_of_the_picture(studio: Studio, capsys: pytest.CaptureFixture) -> None:
    drawn = studio.draw({"guidance.scale": 1, "negative_prompt": "x", "steps": 1}, "word " * 100)
    assert any("negative_prompt" in message for message in drawn.messages)
    assert any(isinstance(message, Caution) for message in drawn.messages)
    assert capsys.readouterr().out == ""


def test_the_choices_are_those_of_the_run(studio: Studio) -> None:
    choices = studio.choices
    assert {"ddim", "heun"} <= {*choices.samplers}
    assert "trailing" in choices.spacings
    assert "listed" not in choices.spacings, "which needs a list"
    assert choices.guidances == ["classifier_free"], "the other one needs a weaker model"
    assert "scale" in choices.guidance
    assert choices.size == (16, 16)
    assert choices.attention
    assert (choices.numbers, choices.maps, choices.takes_mask, [*choices.classes]) == ({}, [], False, [])
    with pytest.raises(ValueError, match=f"multiples of {choices.size_unit} "):
        studio.draw({"size": [16, 16 + choices.size_unit - 1]}, PROMPT)


def test_the_attention_to_words_comes_with_the_picture(studio: Studio) -> None:
    drawn = studio.draw({**QUICK, "attention": True}, "a cat")
    assert drawn.attention is not None
    assert "cat" in drawn.attention.words
    assert drawn.png == studio.draw(QUICK, "a cat").png
