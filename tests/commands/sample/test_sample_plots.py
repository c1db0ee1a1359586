"""X/Y plots, strips from prompt to prompt, and what a picture tells of itself."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from ldm_train.conditioners.interpolation import interpolate_conditioning, slerp
from ldm_train.data.pictures.labelled_grid import (
    LINE,
    draw_captioned_grid,
    draw_labelled_grid,
    wrap_text,
)
from ldm_train.types import Conditioning

TWO = 'prompts=["a black circle on a red background","a cat"]'


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def reported(path: Path) -> dict:
    with Image.open(path) as picture:
        assert isinstance(picture, PngImagePlugin.PngImageFile)
        return dict(picture.text)


@pytest.fixture(scope="module")
def sample(ldm_train: Callable, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`sample(*words)`: the folder of pictures that the tiny run draws."""

    def draw(*words: str) -> Path:
        out = tmp_path_factory.mktemp("sample") / "out"
        answer = ldm_train("sample", f"run_dir={trained}", f"out={out}", "steps=2", "device=cpu", *words)
        assert answer.code == 0, answer.err
        return out

    return draw


@pytest.fixture(scope="module")
def plotted(sample: Callable) -> Path:
    return sample(TWO, "x.guidance=[1,2,8]", "y.prompt=true", "seed=3")


@pytest.mark.slow
def test_a_plot_holds_what_single_commands_draw(plotted: Path, sample: Callable) -> None:
    """Row by row: the same noise at each prompt and scale, as if each were asked for alone."""
    assert sorted(path.name for path in plotted.iterdir()) == [
        *(f"000{n}.png" for n in range(6)),
        "pictures.json",
        "plot.png",
        "prompts.txt",
    ]
    for number, (prompt, scale) in enumerate(
        (p, s) for p in ("a black circle on a red background", "a cat") for s in (1, 2, 8)
    ):
        alone = sample(f'prompts=["{prompt}"]', f"guidance.scale={scale}", "seed=3")
        assert abs(pixels(alone / "0000.png") - pixels(plotted / f"{number:04d}.png")).max() <= 1, "to rounding of a pixel"


def test_a_plot_shows_its_cells_enlarged_beside_labels(plotted: Path) -> None:
    shown = pixels(plotted / "plot.png")
    for number in range(6):
        cell = pixels(plotted / f"{number:04d}.png").repeat(8, 0).repeat(8, 1)
        right, bottom = shown.shape[1] - (2 - number % 3) * 134 - 6, shown.shape[0] - (1 - number // 3) * 134 - 6
        assert (shown[bottom - 128 : bottom, right - 128 : right] == cell).all()
    left, top = shown.shape[1] - 3 * 134, shown.shape[0] - 2 * 134
    assert (shown[:top, left:] < 128).any(), "words above"
    assert (shown[top:, :left] < 128).any(), "words next to it"


@pytest.mark.parametrize(
    ("axis", "values", "alone"),
    [
        ("steps", "[1,3]", ["steps=1", "steps=3"]),
        ("sampler", "[ddim,heun]", ["sampler=ddim", "sampler=heun"]),
        ("seed", "[0,5]", ["seed=0", "seed=5"]),
        ("checkpoint", "[ema,raw]", ["weights=ema", "weights=raw"]),
    ],
)
@pytest.mark.slow
def test_each_axis_varies_what_it_names(axis: str, values: str, alone: list[str], sample: Callable) -> None:
    out = sample('prompts=["a cat"]', f"x.{axis}={values}", "count=2")
    for place, word in enumerate(alone):
        expected = sample('prompts=["a cat"]', word, "count=2")
        for number in range(2):
            one = pixels(out / f"{2 * place + number:04d}.png")
            assert abs(one - pixels(expected / f"{number:04d}.png")).max() <= 1
    assert (pixels(out / "0000.png") != pixels(out / "0002.png")).any()


def test_runs_and_exported_files_are_an_axis(run_with: Callable, trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    other, file = run_with("max_steps=2"), tmp_path / "weights.safetensors"
    assert ldm_train("export", f"run_dir={trained}", f"out={file}", "weights=raw").code == 0
    words = ["sample", f"run_dir={trained}", 'prompts=["a cat","a dog"]', "steps=2", "device=cpu"]
    answer = ldm_train(*words, f"out={tmp_path}/out", f"y.checkpoint=[{trained},{other},{file},raw]")
    assert answer.code == 0, answer.err
    drawn = [pixels(tmp_path / "out" / f"{number:04d}.png") for number in range(8)]
    assert (drawn[2] == drawn[3]).all(), "the exported raw weights"
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[0] != drawn[2]).any()
    assert {path.name for path in (tmp_path / "out").glob("plot*")} == {"plot-0000.png", "plot-0001.png"}, (
        "one for each prompt"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.guidance=[1]", "x.steps=[2]"], "x.guidance and x.steps are two axes; give one of them to y"),
        (["x.seed=[1]", "y.seed=[2]"], "x.seed and y.seed are the same axis twice"),
        (["x.sampler=[ddim,dpm_sover]"], "dpm_sover is not one of samplers"),
        (["x.sampler=[ddim,dpm_sover]"], "did you mean 'dpm_solver'"),
        (["x.steps=[10,0]"], "0 is not one of whole numbers from 1"),
        (["x.seed=[]"], "x.seed=[] must be a list of whole numbers"),
        (["x.checkpoint=[nowhere]"], "nowhere is not one of ema, raw, run directories"),
        (["interpolate=4", "x.seed=[1]"], "interpolate=4 and axes are two kinds of plots"),
        (["interpolate=4", "count=2"], "count=2 does not go with interpolate=4"),
        (["interpolate=1"], "interpolate=1 must be a whole number of at least 2"),
        (["to_seed=1"], "to_seed=1 is where an interpolation's noise goes to"),
    ],
)
def test_bad_axes_are_reported_before_the_run_is_read(
    words: list[str], message: str, ldm_train: Callable, tmp_path: Path
) -> None:
    answer = ldm_train("sample", "run_dir=nowhere", f"out={tmp_path}/out", "prompts=[a]", *words)
    assert answer.code == 1
    assert message in answer.err
    assert "run directory: it" not in answer.err, "it was not looked for"


@pytest.mark.parametrize(
    ("word", "accepted"), [("x.guidance=3", "a list"), ("x.prompt=[a]", "true"), ("blend=linear", "slerp, lerp")]
)
def test_axes_of_another_type_are_refused(word: str, accepted: str, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("sample", "run_dir=nowhere", f"out={tmp_path}/out", "prompts=[a]", word)
    assert answer.code == 2
    assert word.partition("=")[0] in answer.err
    assert accepted in answer.err


def test_a_cell_that_cannot_be_drawn_is_reported_before_any_is(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = ["sample", f"run_dir={trained}", f"out={tmp_path}/out", "prompts=[a]", "device=cpu"]
    answer = ldm_train(*words, "x.steps=[2,2000]")
    assert answer.code == 1
    assert "steps=2000 must be from 1 to the schedule's 1000" in answer.err
    assert not (tmp_path / "out").exists()


def test_one_prompt_alone_has_no_way_to_go(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("sample", f"run_dir={trained}", f"out={tmp_path}/out", "prompts=[a]", "interpolate=3")
    assert answer.code == 1
    assert "interpolate=3 needs two prompts" in answer.err


@pytest.mark.parametrize("blend", ["slerp", "lerp"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.slow
def test_a_strip_begins_and_ends_with_the_prompts_own_pictures(blend: str, sampler: str, sample: Callable) -> None:
    words = [f"sampler={sampler}", "steps=3"]
    strip = sample(TWO, "interpolate=3", "to_seed=4", f"blend={blend}", *words)
    first, middle, last = (pixels(strip / f"000{number}.png") for number in range(3))
    ends = [
        sample(f'prompts=["{p}"]', f"seed={s}", *words) for p, s in (("a black circle on a red background", 0), ("a cat", 4))
    ]
    assert abs(first - pixels(ends[0] / "0000.png")).max() <= 1
    assert abs(last - pixels(ends[1] / "0000.png")).max() <= 1
    assert abs(middle - first).max() > 10
    assert abs(middle - last).max() > 10
    assert pixels(strip / "strip.png").shape == (20, 2 + 3 * 18, 3)


def test_noise_between_two_seeds_is_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 9, 4096, generator=generator)
    weights = torch.linspace(0, 1, 9)
    between = slerp(first, second, weights)
    torch.testing.assert_close(between.std(1), torch.ones(9), atol=0.04, rtol=0)
    assert torch.equal(between[0], first[0])
    assert torch.equal(between[-1], second[-1])
    assert torch.equal(slerp(first, first, weights), first), "no angle between them"


def test_conditioning_between_two_has_the_parts_of_both() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Conditioning:
        mask = torch.rand(3, 5, generator=generator) > 0.5
        return Conditioning(
            tokens=torch.randn(3, 5, 8, generator=generator), mask=mask, vector=torch.randn(3, 8, generator=generator)
        )

    a, b = draw(), draw()
    assert a.tokens is not None
    assert b.tokens is not None
    assert a.mask is not None
    assert b.mask is not None
    middle = interpolate_conditioning(a, b, torch.tensor([0.0, 0.5, 1.0]), blend="lerp")
    assert middle.tokens is not None
    assert middle.mask is not None
    assert torch.equal(middle.tokens[0], a.tokens[0])
    torch.testing.assert_close(middle.tokens[1], (a.tokens[1] + b.tokens[1]) / 2)
    assert torch.equal(middle.mask, a.mask | b.mask)
    assert middle.maps is None


def test_a_picture_tells_how_to_draw_it_again(sample: Callable, trained: Path) -> None:
    out = sample('prompts=["a ☂ and  a cat"]', "negative_prompt=a dog", "guidance.scale=2.5", "seed=7", "count=2")
    text = reported(out / "0001.png")
    lines = text["parameters"].splitlines()
    assert lines[:2] == ["a ☂ and a cat", "Negative prompt: a dog"]
    line = dict(part.split(": ") for part in lines[2].split(", "))
    assert line == {
        "Steps": "2",
        "Sampler": "DDIM",
        "Schedule type": "Trailing",
        "CFG scale": "2.5",
        "Seed": "7",
        "Size": "16x16",
        "Model": trained.name,
        "Model step": "8",
        "Weights": "ema",
        "Number": "1",
    }
    settings = json.loads(text["ldm_train"])
    assert (settings["prompt"], settings["number"], settings["guidance"]["scale"]) == ("a ☂ and  a cat", 1, 2.5)
    assert settings["sampler"] == {"_target_": "ldm_train.samplers.ddim.DDIM", "eta": 0.0}
    assert settings["size"] == [16, 16]
    assert json.loads(reported(out / "grid.png")["ldm_train"])["prompts"] == ["a ☂ and  a cat"] * 2


def test_the_same_command_writes_the_same_bytes(plotted: Path, sample: Callable) -> None:
    again = sample(TWO, "x.guidance=[1,2,8]", "y.prompt=true", "seed=3")
    for path in plotted.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_a_labelled_grid_has_room_for_words(sample: Callable) -> None:
    out = sample(TWO, "labels=true", "count=3")
    assert len(list(out.glob("000?.png"))) == 6
    shown = pixels(out / "grid.png")
    assert shown.shape[1] == 6 + 3 * 134, "a row of three for each prompt"
    below = shown[6 + 128 : 6 + 128 + LINE]
    assert (below < 100).any()


def test_words_are_wrapped_and_long_ones_cut() -> None:
    lines = wrap_text("a black circle on a red background " + "w" * 30, 128)
    assert "".join(lines).replace(" ", "") == "ablackcircleonaredbackground" + "w" * 30
    assert len(wrap_text("word " * 100, 60)) == 6
    assert len(wrap_text("w" * 100_000, 60)) == 6
    assert wrap_text("", 60) == []


def test_pictures_of_any_height_are_placed() -> None:
    tall = torch.zeros(3, 300, 200, dtype=torch.uint8)
    shown = draw_labelled_grid([[tall, tall]], ["left", "right"], [""])
    assert shown.shape[2] == 6 + 2 * 206
    assert draw_captioned_grid(torch.stack([tall] * 3), ["a", "b", "c"], columns=2).shape[2] == 6 + 2 * 206
