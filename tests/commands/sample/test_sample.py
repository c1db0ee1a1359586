"""Drawing pictures with a trained run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROMPTS = ["a black circle on a red background", "a black square on a blue background", "a cat"]
AS_LIST = "prompts=[" + ",".join(f'"{prompt}"' for prompt in PROMPTS) + "]"


def pixels(folder: Path, count: int = 3) -> np.ndarray:
    """The numbered pictures, (count, H, W, 3)."""
    return np.stack([np.asarray(Image.open(folder / f"{number:04d}.png")) for number in range(count)]).astype(int)


@pytest.fixture(scope="module")
def sample(ldm_train: Callable, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`sample(*words)`: the folder of pictures that the tiny run draws."""

    def draw(*words: str) -> Path:
        out = tmp_path_factory.mktemp("sample") / "out"
        answer = ldm_train("sample", f"run_dir={trained}", f"out={out}", "steps=4", "device=cpu", *words)
        assert answer.code == 0, answer.err
        return out

    return draw


@pytest.fixture(scope="module")
def drawn(sample: Callable) -> Path:
    return sample(AS_LIST)


def test_pictures_grid_and_prompts_are_written(drawn: Path) -> None:
    assert sorted(path.name for path in drawn.iterdir()) == [
        "0000.png",
        "0001.png",
        "0002.png",
        "grid.png",
        "pictures.json",
        "prompts.txt",
    ]
    assert pixels(drawn).shape == (3, 16, 16, 3)
    assert (drawn / "prompts.txt").read_text().splitlines() == PROMPTS
    grid = np.asarray(Image.open(drawn / "grid.png")).astype(int)
    assert grid.shape == (20, 56, 3)
    for number, picture in enumerate(pixels(drawn)):
        left = 2 + 18 * number
        assert (grid[2:18, left : left + 16] == picture).all()


def test_one_prompt_is_given_as_one_text(sample: Callable) -> None:
    assert (pixels(sample(f"prompts={PROMPTS[0]}"), 1) == pixels(sample(AS_LIST), 1)).all()


def read_metadata(folder: Path) -> dict:
    return json.loads(Image.open(folder / "0000.png").text["ldm_train"])  # type: ignore[attr-defined]


def test_what_is_not_given_is_the_runs_own(run_with: Callable, ldm_train: Callable, tmp_path: Path) -> None:
    run = run_with("guidance.scale=1.25", "guidance.rescale=0.1", "sampler=heun", "spacing=leading", "pictures.steps=3")
    own = {"steps": 3, "sampler": "Heun", "spacing": "Leading", "scale": 1.25, "rescale": 0.1}

    def draw(name: str, *words: str) -> dict[str, object]:
        drawing = [f"run_dir={run}", "prompts=a circle", "device=cpu", f"out={tmp_path / name}"]
        answer = ldm_train("sample", *drawing, *words)
        assert answer.code == 0, answer.err
        made = read_metadata(tmp_path / name)
        parts = {part: made[part]["_target_"].rpartition(".")[2] for part in ("sampler", "spacing")}
        return {"steps": made["steps"], **parts, **{key: made["guidance"][key] for key in ("scale", "rescale")}}

    assert draw("own") == own
    assert draw("scale", "guidance.scale=3") == own | {"scale": 3}
    assert draw("plot", "x.guidance=[1,2]") == own | {"scale": 1}
    assert draw("steps", "steps=2", "sampler=ddim") == own | {"steps": 2, "sampler": "DDIM"}
    answer = ldm_train("evaluate", f"run_dir={run}", f"out={tmp_path}/own.json", "device=cpu", "resamples=0")
    assert answer.code == 0, answer.err
    measured = json.loads((tmp_path / "own.json").read_text())
    assert (measured["steps"], measured["sampler"], measured["spacing"]) == (3, "Heun", "Leading")
    assert (measured["guidance"]["scale"], measured["guidance"]["rescale"]) == (1.25, 0.1)


def test_a_text_file_holds_a_prompt_a_line(drawn: Path, sample: Callable, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(["", *PROMPTS, " "]))
    from_file = sample(f"prompts={tmp_path}/prompts.txt")
    assert (pixels(from_file) == pixels(drawn)).all()
    assert (from_file / "prompts.txt").read_text().splitlines() == PROMPTS


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_picture_depends_on_seed_and_number_not_on_the_batch(sampler: str, sample: Callable) -> None:
    whole, single = (pixels(sample(AS_LIST, f"sampler={sampler}", f"batch_size={size}")) for size in (16, 1))
    assert abs(whole - single).max() <= 1, "to rounding of a pixel"
    assert abs(whole[0] - whole[1]).max() > 10, "another number is another noise"


def test_seed_prompt_guidance_and_weights_matter(drawn: Path, sample: Callable) -> None:
    plain = pixels(drawn)
    assert (pixels(sample(AS_LIST, "seed=0")) == plain).all()
    for other in ("seed=1", "guidance.scale=8", "weights=raw", "steps=5"):
        assert (pixels(sample(AS_LIST, other)) != plain).any(), other
    assert (pixels(sample('prompts=["a cat"]'), 1)[0] != plain[0]).any(), "the same noise, another prompt"


@pytest.fixture(scope="module")
def weak(run_with: Callable) -> Path:
    """A run that ended earlier, on the same schedule."""
    return run_with("max_steps=2")


def test_negative_prompts_and_autoguidance_matter(drawn: Path, weak: Path, sample: Callable) -> None:
    for other in (
        ["negative_prompt=a cat"],
        ["guidance=autoguidance", f"guidance.weak={weak}"],
        ["guidance.interval=[1,2]"],
    ):
        assert (pixels(sample(AS_LIST, *other)) != pixels(drawn)).any(), other


def test_autoguidance_by_oneself_is_none(trained: Path, sample: Callable) -> None:
    plain = pixels(sample(AS_LIST, "guidance.scale=1"))
    by_itself = pixels(sample(AS_LIST, "guidance=autoguidance", f"guidance.weak={trained}", "guidance.scale=3"))
    assert abs(plain - by_itself).max() <= 1, "to rounding of a pixel"


def test_a_weak_model_on_another_schedule_is_refused(
    run_with: Callable, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    other = run_with("schedule=cosine", "prediction=velocity", "max_steps=1")
    words = ["guidance=autoguidance", f"guidance.weak={other}", f"out={tmp_path}/out", AS_LIST, "device=cpu"]
    answer = ldm_train("sample", f"run_dir={trained}", *words)
    assert answer.code == 1
    assert "was trained on another noise schedule" in answer.err


@pytest.fixture(scope="module")
def start(pictures: Path) -> Path:
    return pictures / "circle-red.png"


def test_a_weak_change_stays_near_the_picture_it_starts_from(start: Path, sample: Callable) -> None:
    picture = np.asarray(Image.open(start)).astype(int)
    near, far = (
        abs(pixels(sample("prompts=[x]", f"picture={start}", f"strength={strength}", "steps=20"), 1)[0] - picture).mean()
        for strength in (0.05, 1.0)
    )
    assert near < 30 < far, "of 255; the untrained network leaves what noise there was"


def test_a_mask_keeps_the_rest_of_the_picture(start: Path, sample: Callable, tmp_path: Path) -> None:
    mask = Image.new("L", (16, 16))
    mask.paste(255, (8, 0, 16, 16))
    mask.save(tmp_path / "mask.png")
    [drawn_anew] = pixels(sample("prompts=[x]", f"picture={start}", f"mask={tmp_path}/mask.png"), 1)
    picture = np.asarray(Image.open(start)).astype(int)
    assert (drawn_anew[:, :8] == picture[:, :8]).all()
    assert (drawn_anew[:, 8:] != picture[:, 8:]).any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strength=0.5"], "need a picture=FILE to start from"),
        (["picture=nowhere.png"], "nowhere.png cannot be read as a picture"),
        (["picture={start}", "strength=0"], "strength=0 must be above 0"),
        (["guidance=autoguidance", "guidance.weak=nowhere"], "run_dir=nowhere is not a run directory"),
        (["steps=2000"], "steps=2000 must be from 1 to the schedule's 1000"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    words: list[str], message: str, start: Path, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    words = [word.format(start=start) for word in words]
    answer = ldm_train("sample", f"run_dir={trained}", f"out={tmp_path}/out", AS_LIST, "device=cpu", *words)
    assert answer.code == 1
    assert message in answer.err
    assert not (tmp_path / "out").exists()
