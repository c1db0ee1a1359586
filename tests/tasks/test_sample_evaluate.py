"""Drawing pictures with a trained run, and measuring it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm_train.data.images import read_image, to_signed
from ldm_train.data.sources.folder import Folder
from ldm_train.encoders.autoencoder import IdentityAutoencoder
from ldm_train.tasks.evaluations import Drawings, Subject

PROMPTS = ["a black circle on a red background", "a black square on a blue background", "a cat"]
AS_LIST = "prompts=[" + ",".join(f'"{prompt}"' for prompt in PROMPTS) + "]"
COMMON = {
    "step",
    "weights",
    "sampler",
    "steps",
    "spacing",
    "guidance",
    "seed",
    *(f"validation_{name}{end}" for name in ("loss", "noise_mse") for end in ("", "_low", "_high")),
    "held_out_examples",
}
DRAWINGS = {"retrieval_at_1", "background_accuracy", "drawing_psnr", "autoencoder_psnr", "pictures", "held_out_pairs"}


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
    assert sorted(path.name for path in drawn.iterdir()) == ["0000.png", "0001.png", "0002.png", "grid.png", "prompts.txt"]
    assert pixels(drawn).shape == (3, 16, 16, 3)
    assert (drawn / "prompts.txt").read_text().splitlines() == PROMPTS
    grid = np.asarray(Image.open(drawn / "grid.png")).astype(int)
    assert grid.shape == (20, 56, 3)
    for number, picture in enumerate(pixels(drawn)):
        left = 2 + 18 * number
        assert (grid[2:18, left : left + 16] == picture).all()


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


@pytest.fixture(scope="module")
def evaluate(
    ldm_train: Callable, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[dict, Path]]:
    """`evaluate(*words)`: the numbers of the tiny run, and the file that holds them."""

    def measure(*words: str) -> tuple[dict, Path]:
        out = tmp_path_factory.mktemp("evaluate") / "deep" / "numbers.json"
        answer = ldm_train("evaluate", f"run_dir={trained}", f"out={out}", "steps=4", "device=cpu", *words)
        assert answer.code == 0, answer.err
        numbers = json.loads(out.read_text())
        assert json.dumps(numbers, indent=2) in answer.out
        return numbers, out

    return measure


@pytest.fixture(scope="module")
def held_out(evaluate: Callable) -> dict:
    return evaluate("evaluation=held_out")[0]


def test_held_out_numbers(held_out: dict) -> None:
    assert set(held_out) == COMMON
    assert held_out["step"] == 8
    assert held_out["held_out_examples"] == 3
    assert (held_out["weights"], held_out["sampler"], held_out["steps"], held_out["seed"]) == ("ema", "DDIM", 4, 0)
    assert held_out["guidance"]["scale"] == 2.0, "that of the run's pictures"
    assert 0 < held_out["validation_loss"] < 1.5
    assert held_out["validation_noise_mse"] == pytest.approx(held_out["validation_loss"]), (
        "of a noise prediction, unweighted"
    )


def test_the_runs_own_evaluation_is_the_default_and_repeats_itself(held_out: dict, evaluate: Callable) -> None:
    assert evaluate()[0] == held_out


def test_raw_weights_are_other_weights(held_out: dict, evaluate: Callable) -> None:
    numbers, _ = evaluate("weights=raw")
    assert numbers["weights"] == "raw"
    assert numbers["validation_loss"] != held_out["validation_loss"]


def test_drawings_are_measured_and_shown(held_out: dict, evaluate: Callable, pictures: Path) -> None:
    numbers, out = evaluate(
        "evaluation=drawings",
        f"evaluation.source={pictures}",
        "evaluation.seeds=2",
        "guidance=classifier_free",
        "guidance.scale=1.5",
    )
    assert set(numbers) == COMMON | DRAWINGS
    assert (numbers["pictures"], numbers["held_out_pairs"], numbers["guidance"]["scale"]) == (6, 3, 1.5)
    assert 0 <= numbers["retrieval_at_1"] <= 1
    assert 0 <= numbers["background_accuracy"] <= 1
    assert 0 < numbers["drawing_psnr"] < 30, "eight steps draw nothing"
    assert numbers["autoencoder_psnr"] > 100, "the identity loses nothing"
    assert numbers["validation_loss"] == held_out["validation_loss"]
    with Image.open(out.with_suffix(".png")) as picture:
        picture.load()
        assert picture.size == (2 + 18 * 3, 2 + 18 * 4), "two seeds, each under its references"


@pytest.mark.parametrize("lacking", ["background", "split"])
def test_drawings_need_backgrounds_and_held_out_pictures(
    lacking: str, pictures: Path, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(pictures, tmp_path / "source"))
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if name != lacking} for row in rows]
    (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"run_dir={trained}", f"out={tmp_path}/o.json", "evaluation=drawings", f"evaluation.source={source}"]
    answer = ldm_train("evaluate", *words, "steps=2")
    assert answer.code == 1
    assert "needs held-out pictures, and a background for each" in answer.err


class Truth:
    """A generation that draws what its prompts describe: the true pictures, or those of another caption."""

    def __init__(self, folder: Path, instead: dict[str, str] | None = None) -> None:
        self.size, self.device, self.autoencoder = 16, torch.device("cpu"), IdentityAutoencoder()
        self.images = {item.captions[0]: to_signed(read_image(item.picture.read(), 16)) for item in Folder(str(folder))}
        self.instead = instead or {}

    def __call__(self, prompts: list[str], recipe: None, **_: object) -> Tensor:
        return torch.stack([self.images[self.instead.get(prompt, prompt)] for prompt in prompts])


def measured(truth: Truth, folder: Path, out: Path) -> dict:
    subject = Subject(truth, recipe=None, out=out)  # type: ignore[arg-type]
    return Drawings(source=str(folder), seeds=2, batch_size=4)(subject)


def test_perfect_drawings_get_perfect_numbers(pictures: Path, tmp_path: Path) -> None:
    numbers = measured(Truth(pictures), pictures, tmp_path / "o.json")
    assert numbers["retrieval_at_1"] == 1
    assert numbers["background_accuracy"] == 1
    assert numbers["drawing_psnr"] > 100


@pytest.mark.parametrize(
    ("drawn_instead", "retrieval", "background"),
    [("a black square on a red background", 2 / 3, 1), ("a black circle on a white background", 1, 2 / 3)],
)
def test_a_wrong_shape_and_a_wrong_background_are_told_apart(
    drawn_instead: str, retrieval: float, background: float, pictures: Path, tmp_path: Path
) -> None:
    """Of three held-out drawings the red circle is drawn as another one: on the right ground, or in the right shape."""
    truth = Truth(pictures, {"a black circle on a red background": drawn_instead})
    numbers = measured(truth, pictures, tmp_path / "o.json")
    assert numbers["retrieval_at_1"] == pytest.approx(retrieval)
    assert numbers["background_accuracy"] == pytest.approx(background)
    assert numbers["drawing_psnr"] < numbers["autoencoder_psnr"]
