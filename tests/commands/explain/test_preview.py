"""`ldm-train explain cache=…`: without a run, the page has what needs no trained network, by the settings of a training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ldm_train import draws
from ldm_train.commands.explain.explanation import explain_run
from ldm_train.commands.explain.forward_blocks import show_forward
from ldm_train.commands.explain.plain_words import say_schedule, say_target, say_tokens
from ldm_train.commands.explain.preview import Preview, preview_training
from ldm_train.commands.explain.preview_page import build_preview_page
from ldm_train.data.cache.reader import LatentCache
from ldm_train.reports.page import render_page
from ldm_train.settings.composition import ConfigError, compose_as
from ldm_train.settings.schema.using import ExplainSettings

VELOCITY = ["schedule=cosine", "schedule.zero_terminal_snr=true", "prediction=velocity"]


def settings_of(*words: str) -> ExplainSettings:
    return compose_as(ExplainSettings, ["out=x.html", "device=cpu", *words])


def preview(*words: str) -> Preview:
    return preview_training(settings_of(*words))


def test_it_is_what_the_page_of_a_run_shows(trained: Path, cache: Path) -> None:
    before, after = preview(f"cache={cache}"), explain_run(settings_of(f"run_dir={trained}", "steps=1"), label="")
    assert (before.picture.name, before.picture.prompt) == (after.picture.name, after.picture.prompt)
    assert torch.equal(before.picture.latents, after.picture.latents)
    assert before.names.items() <= after.names.items()
    assert say_schedule(before) == say_schedule(after)
    assert say_tokens(before) == say_tokens(after)
    assert show_forward(before) == show_forward(after)


def test_the_right_answer_is_that_of_training(cache: Path) -> None:
    one = preview(f"cache={cache}", *VELOCITY, "seed=5")
    noise = draws.normal(5, "explained noise", torch.tensor([0]), one.picture.latents.shape[1:])
    for step, target in zip(one.forward, one.targets, strict=True):
        assert_close(target, (step.point.alpha * noise - step.point.sigma * one.picture.latents)[0])
    assert one.forward[-1].point.alpha == 0
    assert "velocity" in say_target(one)


def test_a_cache_with_maps_is_shown_like_one_without(pictures: Path, encode: Callable, cache: Path, tmp_path: Path) -> None:
    answer = encode(pictures, tmp_path / "cache", "conditions=[{inpaint:{masks:1}}]")
    assert answer.code == 0, answer.err
    one, other = preview(f"cache={cache}"), preview(f"cache={tmp_path / 'cache'}")
    assert torch.equal(one.picture.latents, other.picture.latents)
    assert show_forward(one) == show_forward(other)


def test_an_experiment_a_file_and_words_choose_the_settings(
    cache: Path, run_with: Callable[..., Path], tmp_path: Path
) -> None:
    run_dir = run_with(*VELOCITY)
    by_words, by_file = settings_of(f"cache={cache}", *VELOCITY), settings_of(f"config={run_dir}/config.yaml")
    assert (by_file.schedule, by_file.prediction) == (by_words.schedule, by_words.prediction)
    assert by_file.cache == str(cache)
    changed = settings_of(f"config={run_dir}/config.yaml", "prediction=clean", "cache=other")
    assert changed.schedule == by_words.schedule
    assert changed.prediction is not None
    assert changed.prediction.target.endswith("Clean")
    assert changed.cache == "other"
    experiment = settings_of(f"cache={cache}", "experiment=openmoji", "schedule.offset=0.1")
    assert experiment.schedule is not None
    assert (experiment.schedule.get("offset"), experiment.image_size) == (0.1, 64)
    own = tmp_path / "own.yaml"
    own.write_text("picture: cat.png\nprompt: a cat\n")  # a file of the command's own settings
    assert settings_of("run_dir=x", f"config={own}").picture == "cat.png"


def test_the_page_has_no_part_that_needs_a_network_and_names_these(cache: Path) -> None:
    page = render_page(build_preview_page(preview(f"cache={cache}")))
    ids = [part.partition('"')[0] for part in page.split('<h2 id="')[1:]]
    assert ids == [
        "the-picture-and-its-latents",
        "noise-is-added",
        "words-to-tokens",
        "what-the-network-is-taught",
        "what-needs-a-run",
    ]
    assert "Where it errs" in page


def test_the_tokens_are_the_prompt_s_with_what_is_cut(cache: Path) -> None:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    one = preview(f"cache={cache}", "prompt=Dreamshape cat")
    assert one.tokens is not None
    assert [row[:3] for row in one.tokens.rows] == [
        ["dream…", "4595", "dreamshape"],
        ["shape", "6448", "dreamshape"],
        ["cat", "2368", "cat"],
    ]
    long = preview(f"cache={cache}", f"prompt={words}")
    assert long.tokens is not None
    assert [row[3] for row in long.tokens.rows].count("yes") == long.tokens.capacity == 14
    assert "last 1 tokens are cut" in say_tokens(long)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run_dir={run}", "cache={cache}"], "cache={cache}"),
        (["run_dir={run}", "schedule=cosine"], "schedule=cosine"),
        (["run_dir={run}", "experiment=openmoji"], "experiment=openmoji"),
        (["run_dir={run}", "config={run}/config.yaml"], "config={run}/config.yaml"),
        (["experiment=openmoji"], "cache=DIR"),
        (["cache={cache}", "steps=4"], "steps"),
        (["cache={cache}", "guidance.scale=4"], "guidance"),
        (["cache={cache}", "experiment=openmoji"], "image_size"),
        (["cache={cache}", "schedule=cosine", "schedule.zero_terminal_snr=true"], "prediction=noise"),
        (["cache={cache}", "schedules=cosine"], "schedules"),
        (["cache={cache}", "key=nowhere.png"], "key=nowhere.png"),
        ([], "run_dir=DIR"),
    ],
    ids=range(12),
)
def test_settings_that_contradict_each_other_are_refused(
    words: list[str], named: str, ldm_train: Callable, trained: Path, cache: Path, tmp_path: Path
) -> None:
    given = [word.format(run=trained, cache=cache) for word in words]
    answer = ldm_train("explain", *given, f"out={tmp_path}/page.html", "device=cpu")
    assert answer.code in (1, 2)
    assert named.format(run=trained, cache=cache) in answer.err
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_page(ldm_train: Callable, cache: Path, pictures: Path, tmp_path: Path) -> None:
    words = [f"cache={cache}", f"out={tmp_path}/page.html", "device=cpu", "prompt=a circle"]
    answer = ldm_train("explain", *words, f"picture={pictures}/circle-red.png")
    assert answer.code == 0, answer.err
    assert "circle-red.png" in (tmp_path / "page.html").read_text()


def test_an_unknown_setting_of_a_file_is_named(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("max_stepz: 3\n")
    with pytest.raises(ConfigError, match="max_stepz"):
        settings_of(f"cache={cache}", f"config={tmp_path}/own.yaml")


def test_it_names_the_cache_that_an_example_is_of(cache: Path) -> None:
    key = LatentCache(cache).entries[4].key
    assert preview(f"cache={cache}", f"key={key}").picture.name == key
