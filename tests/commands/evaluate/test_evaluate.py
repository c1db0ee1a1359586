"""Measuring a trained run: which numbers there are, of what, and that nothing but the model and the recipe decides them."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm_train.autoencoders.autoencoder import IdentityAutoencoder
from ldm_train.commands.evaluate import drawn_pictures as evaluated
from ldm_train.commands.evaluate.drawn_pictures import locate_pictures
from ldm_train.data.pictures.images import read_image, to_signed
from ldm_train.data.sources.folder import Folder
from ldm_train.features import clip_score
from ldm_train.metrics.evaluation import DrawnPictures
from ldm_train.metrics.numbers import Numbers, Resampling
from ldm_train.quickstart.drawings import Drawings

COMMON = {
    "kind",
    "command",
    "step",
    "weights",
    "sampler",
    "steps",
    "spacing",
    "guidance",
    "seed",
    "validation_loss",
    "validation_noise_mse",
    "held_out_examples",
    "few_held_out",
    "taught_validation_loss",
    "taught_validation_noise_mse",
    "intervals",
}
SETS = {f"{name}_efficientnet_lite0" for name in ("kid", "fid", "precision", "recall")}
COMPARED = {"pictures", "real_pictures", "features", "resamples", "few_pictures", "fid_efficientnet_lite0_rank_deficient"}
RETRIEVAL = {"retrieval_at_1"}
TAUGHT = {f"taught_{name}" for name in (*SETS, *RETRIEVAL, "pictures")}
NEAREST = {f"{prefix}nearest_trained_ratio_efficientnet_lite0" for prefix in ("", "taught_")} | {"memorisation"}
DRAWINGS = {"retrieval_at_1", "background_accuracy", "drawing_psnr", "autoencoder_psnr", "pictures", "held_out_pairs"}
QUICK = ["steps=2", "device=cpu", "resamples=5"]


@pytest.fixture(scope="module")
def evaluate(
    ldm_train: Callable, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[dict, Path]]:
    """`evaluate(*words, out=…)`: the numbers of the tiny run, and the file that holds them."""

    def measure(*words: str, out: Path | None = None) -> tuple[dict, Path]:
        out = out or tmp_path_factory.mktemp("evaluate") / "deep" / "numbers.json"
        subject = (
            [] if any(word.startswith(("pictures=", "pipeline=", "run_dir=")) for word in words) else [f"run_dir={trained}"]
        )
        answer = ldm_train("evaluate", *subject, f"out={out}", *QUICK, *words)
        assert answer.code == 0, answer.err
        numbers = json.loads(out.read_text())
        assert json.dumps(numbers, indent=2) in answer.out
        return numbers, out

    return measure


@pytest.fixture(scope="module")
def held_out(evaluate: Callable) -> dict:
    return evaluate("features=null")[0]


def test_without_features_there_are_the_losses(held_out: dict) -> None:
    assert set(held_out) == COMMON
    assert (held_out["kind"], held_out["step"], held_out["held_out_examples"]) == ("evaluation", 8, 3)
    assert (held_out["weights"], held_out["sampler"], held_out["steps"], held_out["seed"]) == ("ema", "DDIM", 2, 0)
    assert held_out["guidance"]["scale"] == 2.0, "that of the run's pictures"
    assert 0 < held_out["validation_loss"] < 1.5
    assert held_out["validation_noise_mse"] == pytest.approx(held_out["validation_loss"]), (
        "of a noise prediction, unweighted"
    )


@pytest.fixture(scope="module")
def compared(evaluate: Callable, pictures: Path) -> tuple[dict, Path]:
    return evaluate("samples=9", f"real={pictures}", "seed=3")


def test_drawn_pictures_are_compared_with_real_ones(compared: tuple[dict, Path], held_out: dict) -> None:
    numbers, out = compared
    assert set(numbers) == COMMON | SETS | COMPARED | RETRIEVAL
    assert (numbers["pictures"], numbers["real_pictures"], numbers["features"]) == (9, 12, "efficientnet_lite0")
    assert numbers["fid_efficientnet_lite0_rank_deficient"] is True
    assert numbers["kid_efficientnet_lite0"] > 0, "eight steps draw nothing"
    assert set(numbers["intervals"]) >= SETS
    for name in SETS:
        low, high = numbers["intervals"][name]
        assert low <= high
    assert numbers["validation_loss"] == held_out["validation_loss"]
    assert len(list(locate_pictures(out).glob("*/*.png"))) == 9


def test_the_numbers_are_reported_in_markdown_too(compared: tuple[dict, Path]) -> None:
    numbers, out = compared
    text = out.with_suffix(".md").read_text()
    low, high = numbers["intervals"]["kid_efficientnet_lite0"]
    assert f"| `kid_efficientnet_lite0` | {numbers['kid_efficientnet_lite0']:.4g} | {low:.4g} to {high:.4g} |" in text
    for line in ("| pictures | 9 |", "| sampler | DDIM |", "| features | efficientnet_lite0 |", "| seed | 3 |"):
        assert line in text
    assert "fid_efficientnet_lite0_rank_deficient" in text


def test_few_held_out_pictures_are_compared_as_far_as_they_can_be(evaluate: Callable) -> None:
    numbers, out = evaluate("resamples=0")
    expected = COMMON | SETS | COMPARED | RETRIEVAL | TAUGHT | NEAREST
    assert set(numbers) == expected - {"precision_efficientnet_lite0", "recall_efficientnet_lite0"}
    assert (numbers["pictures"], numbers["real_pictures"]) == (3, 3)
    assert not set(numbers["intervals"]) & SETS
    assert (numbers["taught_pictures"], numbers["few_held_out"]) == (9, True), "all nine that were trained on"
    table = out.with_suffix(".md").read_text()
    for name in ("retrieval_at_1", "validation_loss", "nearest_trained_ratio_efficientnet_lite0"):
        [row] = [line for line in table.splitlines() if line.startswith(f"| `{name}` |")]
        cells = [cell.strip() for cell in row.split("|")]
        assert (cells[2], cells[4]) == (f"{numbers[name]:.4g}", f"{numbers[f'taught_{name}']:.4g}")
    assert "few_held_out" in table
    assert numbers["memorisation"] in table


def test_raw_weights_are_other_weights(held_out: dict, evaluate: Callable) -> None:
    numbers, _ = evaluate("weights=raw", "features=null")
    assert numbers["weights"] == "raw"
    assert numbers["validation_loss"] != held_out["validation_loss"]


@pytest.mark.parametrize("change", ["a smaller batch", "some were drawn before", "it was killed"])
@pytest.mark.slow
def test_batches_and_interruptions_leave_the_result_alone(
    change: str,
    compared: tuple[dict, Path],
    evaluate: Callable,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, before = compared
    words, out = ["samples=9", f"real={pictures}", "seed=3", "batch_size=4"], tmp_path / "numbers.json"
    if change == "some were drawn before":
        shutil.copytree(locate_pictures(before), locate_pictures(out))
        for name in ("000001.png", "000008.png"):
            next(locate_pictures(out).glob(f"*/{name}")).unlink()
    if change == "it was killed":
        save, count = evaluated.save_png, iter(range(100))

        def fail(*arguments: object) -> None:
            if next(count) == 6:
                raise KeyboardInterrupt
            save(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(evaluated, "save_png", fail)
        with pytest.raises(AssertionError, match="interrupted"):
            evaluate(*words, out=out)
        monkeypatch.undo()
        assert not out.exists()
        assert len(list(locate_pictures(out).glob("*/*.png"))) == 6
    numbers, _ = evaluate(*words, out=out)
    assert numbers.keys() == expected.keys()
    for name in SETS | {"validation_loss"}:
        assert numbers[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


def test_what_is_there_is_not_drawn_again(
    compared: tuple[dict, Path], evaluate: Callable, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, out = compared
    monkeypatch.setattr(evaluated, "draw_batch", None)
    numbers, _ = evaluate("samples=9", f"real={pictures}", "seed=3", out=out)
    assert numbers == expected | {"command": numbers["command"]}


@pytest.mark.parametrize("other", ["weights=raw", "guidance.scale=9"])
@pytest.mark.slow
def test_pictures_of_another_model_or_recipe_are_never_used(
    other: str, compared: tuple[dict, Path], evaluate: Callable, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "numbers.json"
    shutil.copytree(locate_pictures(compared[1]), locate_pictures(out))
    [stale] = locate_pictures(out).glob("*/")
    for file in stale.iterdir():
        file.write_bytes(b"a picture of something else")
    more = ["guidance=classifier_free"] if other.startswith("guidance") else []
    evaluate(*more, other, "samples=9", "seed=3", f"real={pictures}", out=out)
    assert not stale.exists(), "and they are not kept next to a result that is not theirs"
    assert len(list(locate_pictures(out).glob("*/"))) == 1


def test_another_training_s_pictures_are_never_used(
    compared: tuple[dict, Path], evaluate: Callable, run_with: Callable, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "numbers.json"
    shutil.copytree(locate_pictures(compared[1]), locate_pictures(out))
    numbers, _ = evaluate(f"run_dir={run_with('max_steps=2')}", "samples=9", f"real={pictures}", "seed=3", out=out)
    assert numbers["kid_efficientnet_lite0"] != compared[0]["kid_efficientnet_lite0"]


@pytest.mark.slow
def test_a_sweep_measures_what_single_commands_do(
    compared: tuple[dict, Path], evaluate: Callable, pictures: Path, tmp_path: Path
) -> None:
    words = ["samples=9", f"real={pictures}", "seed=3", "features=efficientnet_lite0"]
    numbers, out = evaluate(*words, "sweep.guidance=[1,2]", "sweep.steps=[1,2]")
    assert [(row["guidance"]["scale"], row["steps"]) for row in numbers["sweep"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for name in SETS:
        assert numbers[name] == compared[0][name], "the command's own guidance and steps, as without a sweep"
        assert numbers["sweep"][3][name] == compared[0][name], "which are a point of it too"
    assert len({row["kid_efficientnet_lite0"] for row in numbers["sweep"]}) == 4
    table = [line for line in out.with_suffix(".md").read_text().splitlines() if line.startswith(("| 1 |", "| 2 |"))]
    assert len(table) == 4
    plot = ElementTree.parse(out.with_suffix(".svg")).getroot()
    texts = [element.text for element in plot.iter("{http://www.w3.org/2000/svg}text")]
    assert {"kid_efficientnet_lite0", "guidance", "1 steps", "2 steps"} <= set(texts)
    assert len(list(plot.iter("{http://www.w3.org/2000/svg}circle"))) == 4 * len({*SETS, "retrieval_at_1"})


def test_what_a_sweep_cannot_draw_is_reported_before_any_is(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("evaluate", f"run_dir={trained}", f"out={tmp_path}/o.json", *QUICK, "sweep.steps=[2,2000]")
    assert answer.code == 1
    assert "steps=2000 must be from 1 to the schedule's 1000" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def bare(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture without a caption, which no source names as held out."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copyfile(pictures / "circle-red.png", folder / "a.png")
    return folder


@pytest.fixture(scope="module")
def not_held_out(bare: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of a picture that training would not hold out."""
    source, cache = tmp_path_factory.mktemp("captioned"), tmp_path_factory.mktemp("caches") / "none"
    shutil.copyfile(bare / "a.png", source / "a.png")
    (source / "a.txt").write_text("a circle")
    answer = encode(source, cache, "dtype=float32")
    assert answer.code == 0, answer.err
    return cache


@pytest.mark.parametrize("sweep", [[], ["sweep.steps=[1,2]"]], ids=["no sweep", "sweep"])
@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ([], ["real=DIR", "cache=DIR"]),
        (["prompts=[a circle]"], ["real=DIR", "cache=DIR", "clip_score=open_clip"]),
        (["features=null"], ["features=efficientnet_lite0", "clip_score=open_clip"]),
        (["real={bare}"], ["prompts="]),
    ],
    ids=["no held-out pictures", "prompts only", "no features", "no captions"],
)
def test_a_run_with_nothing_to_measure_is_refused(
    words: list[str],
    advice: list[str],
    sweep: list[str],
    bare: Path,
    not_held_out: Path,
    trained: Path,
    ldm_train: Callable,
    tmp_path: Path,
) -> None:
    given = [word.format(bare=bare) for word in words]
    subject = [f"run_dir={trained}", f"cache={not_held_out}", f"out={tmp_path}/o.json"]
    answer = ldm_train("evaluate", *subject, *QUICK, *given, *sweep)
    assert answer.code == 1
    assert all(setting in answer.err for setting in advice)
    assert not list(tmp_path.iterdir())


def test_a_sweep_of_losses_alone_is_refused(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = [f"run_dir={trained}", f"out={tmp_path}/o.json", "features=null", "sweep.steps=[1,2]"]
    answer = ldm_train("evaluate", *words, *QUICK)
    assert answer.code == 1
    assert "features=efficientnet_lite0" in answer.err
    assert not list(tmp_path.iterdir())


def test_pictures_without_captions_cannot_be_compared_with_them(
    bare: Path, ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_score.CLIPPair, "__init__", lambda self, **_: torch.nn.Module.__init__(self))
    answer = ldm_train("evaluate", f"pictures={bare}", f"out={tmp_path}/o.json", "clip_score=open_clip", *QUICK)
    assert answer.code == 1
    assert "prompts=" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "run_dir=DIR, pictures=DIR and pipeline=DIR"),
        (["run_dir=a", "pipeline=b"], "given: run_dir, pipeline"),
        (["run_dir=a", "out=numbers"], "out=numbers must end in .json"),
        (["pictures=a"], "real=DIR"),
        (["pictures=a", "real=b", "sweep.steps=[1]"], "pictures=a exist already"),
        (["pictures=a", "real=b"], "pictures=a is not a folder"),
        (["pipeline=a"], "pipeline=a needs prompts"),
        (["pipeline=a", "prompts=[x]"], "pipeline=a is not a folder with a model_index.json"),
        (
            ["run_dir=a", "evaluation=drawings", "evaluation.source=b", "samples=5"],
            "samples=5 cannot be combined with evaluation=drawings",
        ),
        (["run_dir=a", "sweep.steps=[0]"], "0 is not one of whole numbers from 1"),
        (["run_dir=a", "devices=0"], "devices=0 must be"),
        (["run_dir=a", "samples=0"], "samples=0 must be a whole number of at least 1"),
    ],
)
def test_contradictions_are_reported(words: list[str], message: str, ldm_train: Callable, tmp_path: Path) -> None:
    out = [] if any(word.startswith("out=") for word in words) else [f"out={tmp_path}/o.json"]
    answer = ldm_train("evaluate", *words, *out)
    assert answer.code == 1
    assert message in answer.err
    assert not list(tmp_path.iterdir())


def test_a_sweep_is_of_a_list(ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("evaluate", "run_dir=a", f"out={tmp_path}/o.json", "sweep.guidance=2")
    assert answer.code == 2
    assert "sweep.guidance=2" in answer.err
    assert "a list" in answer.err


def test_a_folder_is_compared_with_itself(evaluate: Callable, pictures: Path) -> None:
    numbers, _ = evaluate(f"pictures={pictures}", f"real={pictures}")
    assert set(numbers) == SETS | COMPARED | RETRIEVAL | {"kind", "command", "intervals"}
    assert numbers["retrieval_at_1"] == 1
    assert (numbers["pictures"], numbers["real_pictures"]) == (12, 12)
    assert numbers["fid_efficientnet_lite0"] == pytest.approx(0, abs=1e-6)
    assert (numbers["precision_efficientnet_lite0"], numbers["recall_efficientnet_lite0"]) == (1, 1)


def test_a_folder_that_was_drawn_is_its_numbered_pictures_with_their_prompts(
    ldm_train: Callable, trained: Path, pictures: Path, evaluate: Callable, tmp_path: Path
) -> None:
    from ldm_train.commands.evaluate.galleries import open_gallery

    prompts = 'prompts=["a black circle on a red background","a cat"]'
    assert ldm_train("sample", f"run_dir={trained}", prompts, f"out={tmp_path}/drawn", "steps=1", "count=2").code == 0
    gallery = open_gallery("pictures", f"{tmp_path}/drawn")
    assert [file.name for file in gallery.files] == ["0000.png", "0001.png", "0002.png", "0003.png"]
    assert gallery.captions == ["a black circle on a red background"] * 2 + ["a cat"] * 2
    captions = open_gallery("real", str(pictures)).captions
    assert captions[0] == "circle, blue" or captions[0].startswith("a black circle")
    assert len(captions) == 12
    for name in ("plain.png", "other.png"):
        Image.new("RGB", (8, 8 if name == "plain.png" else 9)).save(tmp_path / name)
    shutil.rmtree(tmp_path / "drawn")
    assert open_gallery("pictures", str(tmp_path)).captions == []


@pytest.fixture(scope="module")
def drawings(evaluate: Callable, pictures: Path) -> tuple[dict, Path]:
    return evaluate(
        "evaluation=drawings",
        f"evaluation.source={pictures}",
        "evaluation.seeds=2",
        "guidance=classifier_free",
        "guidance.scale=1.5",
    )


def test_drawings_are_measured_and_shown(drawings: tuple[dict, Path], held_out: dict) -> None:
    numbers, out = drawings
    assert set(numbers) == (COMMON | DRAWINGS | SETS | COMPARED | TAUGHT | NEAREST) - {
        "precision_efficientnet_lite0",
        "recall_efficientnet_lite0",
    }
    assert (numbers["pictures"], numbers["held_out_pairs"], numbers["guidance"]["scale"]) == (6, 3, 1.5)
    assert 0 <= numbers["retrieval_at_1"] <= 1
    assert 0 <= numbers["background_accuracy"] <= 1
    assert 0 < numbers["drawing_psnr"] < 30, "eight steps draw nothing"
    assert numbers["autoencoder_psnr"] > 100, "the identity loses nothing"
    assert {"retrieval_at_1", "background_accuracy", "drawing_psnr"} <= numbers["intervals"].keys()
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
    answer = ldm_train("evaluate", *words, "steps=2", "features=null")
    assert answer.code == 1
    assert "needs held-out pictures, and a background for each" in answer.err


def measured(folder: Path, instead: dict[str, str] | None = None) -> dict:
    """Of the true pictures, or those of another caption, as what was drawn."""
    images = {
        item.captions[0]: to_signed(read_image(item.picture.read(), 16)) for item in Folder(str(folder)) if item.picture
    }
    evaluation = Drawings(source=str(folder), seeds=2, batch_size=4)
    drawn = torch.stack([images[(instead or {}).get(prompt, prompt)] for prompt in evaluation.prompts()])
    subject = DrawnPictures(drawn, IdentityAutoencoder(), torch.device("cpu"))
    return evaluation(subject, Resampling(0, 0)).values


def test_perfect_drawings_get_perfect_numbers(pictures: Path) -> None:
    numbers = measured(pictures)
    assert numbers["retrieval_at_1"] == 1
    assert numbers["background_accuracy"] == 1
    assert numbers["drawing_psnr"] > 100


@pytest.mark.parametrize(
    ("drawn_instead", "retrieval", "background"),
    [("a black square on a red background", 2 / 3, 1), ("a black circle on a white background", 1, 2 / 3)],
)
def test_a_wrong_shape_and_a_wrong_background_are_reported_apart(
    drawn_instead: str, retrieval: float, background: float, pictures: Path
) -> None:
    """Of three held-out drawings the red circle is drawn as another one: on the right ground, or in the right shape."""
    numbers = measured(pictures, {"a black circle on a red background": drawn_instead})
    assert numbers["retrieval_at_1"] == pytest.approx(retrieval)
    assert numbers["background_accuracy"] == pytest.approx(background)
    assert numbers["drawing_psnr"] < numbers["autoencoder_psnr"]


def test_a_mean_has_the_interval_that_the_theory_says() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    numbers = Numbers()
    numbers.add_mean("mean", values, Resampling(2000, 0))
    low, high = numbers.intervals["mean"]
    assert (high - low) / 2 == pytest.approx(1.96 * values.std().item() / 20, rel=0.1)
