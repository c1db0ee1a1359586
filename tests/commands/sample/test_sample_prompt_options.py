"""`sample` with prompts that have settings of their own."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PLAIN, OTHER = "a black circle on a red background", "a cat"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture(scope="module")
def sample(ldm_train: Callable, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`sample(*words)`: the folder of pictures that the tiny run draws."""

    def draw(*words: str) -> Path:
        out = tmp_path_factory.mktemp("sample") / "out"
        answer = ldm_train("sample", f"run_dir={trained}", f"out={out}", "device=cpu", *words)
        assert answer.code == 0, answer.err
        return out

    return draw


@pytest.fixture(scope="module")
def mixed(sample: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text(f"# mixed\n{PLAIN}\n{OTHER} --n {PLAIN} --w 32 --d 7 --l 3 --s 2\n{OTHER}\n{PLAIN} --d 7 --s 2\n")
    return sample(f"prompts={path}", "steps=3")


def test_options_draw_what_settings_of_the_command_draw(mixed: Path, sample: Callable) -> None:
    words = [f"negative_prompt={PLAIN}", "size=[16,32]", "seed=7", "guidance.scale=3", "steps=2"]
    single = sample(f"prompts={OTHER}", *words)
    assert pixels(mixed / "0001.png").shape == (16, 32, 3)
    assert abs(pixels(mixed / "0001.png") - pixels(single / "0000.png")).max() <= 1
    own, commands = (json.loads(Image.open(path).text["ldm_train"]) for path in (mixed / "0001.png", single / "0000.png"))  # type: ignore[attr-defined]
    assert own == commands


def test_prompts_without_options_are_drawn_as_ever(mixed: Path, sample: Callable) -> None:
    plain = sample(f'prompts=["{PLAIN}","x","{OTHER}"]', "steps=3")
    for name in ("0000.png", "0002.png"):
        assert abs(pixels(mixed / name) - pixels(plain / name)).max() <= 1


def test_a_prompt_with_its_own_seed_gives_the_same_pictures_in_any_order(mixed: Path, sample: Callable) -> None:
    alone = sample(f'prompts=["{PLAIN} --d 7 --s 2"]', "count=2")
    assert abs(pixels(alone / "0000.png") - pixels(mixed / "0003.png")).max() <= 1
    assert (pixels(alone / "0000.png") != pixels(alone / "0001.png")).any(), "another number is another noise"


def test_pictures_of_different_sizes_share_a_grid(mixed: Path) -> None:
    grid = pixels(mixed / "grid.png")
    assert grid.shape == (20, 2 + 4 * 34, 3)
    assert (grid[2:18, 2:18] == pixels(mixed / "0000.png")).all()
    assert (grid[2:18, 18:34] == 255).all(), "white"
    assert (grid[2:18, 36:68] == pixels(mixed / "0001.png")).all()


def test_the_folder_lists_prompts_with_options_that_draw_the_same_again(mixed: Path, sample: Callable) -> None:
    assert (mixed / "prompts.txt").read_text().splitlines()[1] == f"{OTHER} --n {PLAIN} --w 32 --d 7 --l 3.0 --s 2"
    again = sample(f"prompts={mixed / 'prompts.txt'}", "steps=3")
    for number in range(4):
        assert (pixels(again / f"{number:04d}.png") == pixels(mixed / f"{number:04d}.png")).all()


def test_a_plot_draws_prompts_with_their_options(sample: Callable, mixed: Path) -> None:
    plot = sample(f'prompts=["{PLAIN} --d 7 --s 2","{OTHER} --d 3"]', "x.guidance=[2,3]", "y.prompt=true", "steps=3")
    assert abs(pixels(plot / "0000.png") - pixels(mixed / "0003.png")).max() <= 1
    texts = [json.loads(Image.open(plot / f"000{n}.png").text["ldm_train"]) for n in range(4)]  # type: ignore[attr-defined]
    assert [(text["seed"], text["steps"]) for text in texts] == [(7, 2), (7, 2), (3, 3), (3, 3)]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["a fox --w 13"], ["prompts", "[16, 13]", "multiples of"]),
        (["a fox", "a cat --s 2000"], ["prompts, prompt 2", "2000"]),
        (["a fox --d 7", "a cat", "x.seed=[1,2]"], ["prompts, prompt 1", "x.seed"]),
        (["a fox --w 32", "a cat", "x.steps=[1,2]", "y.prompt=true"], ["16 x 32", "16 x 16"]),
        (["a fox --d 7", "a cat", "interpolate=3"], ["seed 7", "interpolate=3"]),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], named: list[str], trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    prompts = ",".join(f'"{word}"' for word in words if "=" not in word)
    more = [word for word in words if "=" in word]
    answer = ldm_train("sample", f"run_dir={trained}", f"out={tmp_path}/out", f"prompts=[{prompts}]", "device=cpu", *more)
    assert answer.code == 1
    for part in named:
        assert part in answer.err
    assert not (tmp_path / "out").exists()
