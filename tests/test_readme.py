"""The README's commands do what they say, at a small size; its figures are those of the files beside it."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.tasks.command import main
from ldm_train.tasks.settings.config import compose

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = (ROOT / "scripts" / "quickstart.sh").read_text(encoding="utf-8")
SMALL = {
    "encode": ["image_size=16"],
    "check": ["image_size=16"],
    "train": [
        "max_steps=2",
        "batch_size=4",
        "pictures.steps=2",
        "metrics.count=4",
        "metrics.steps=1",
        "network.channels=[16,32]",
        "network.head_size=8",
        "held_out=0",
    ],
    "train_autoencoder": ["max_steps=2", "batch_size=2", "image_size=16", "architecture.channels=[8,16]"],
    "evaluate": ["steps=2"],
    "sample": ["steps=2"],
    "report": [],
}


def commands(text: str) -> list[list[str]]:
    """The `ldm-train` and preparation commands in shell code blocks, each as its words."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    return [shlex.split(line) for line in blocks.splitlines() if line.startswith(("ldm-train", "python scripts"))]


def run(words: list[str], more: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words[1:], *more])
    assert stop.value.code == 0, words


VERBS = [words for words in commands(README) if words[0] == "ldm-train" and "--multirun" not in words]
SWEEPS = [words for words in commands(README) if "--multirun" in words]


@pytest.mark.parametrize("words", VERBS, ids=lambda words: " ".join(words[1:4]))
def test_every_command_makes_a_config(words: list[str]) -> None:
    compose(words[1], words[2:])


def test_every_sweep_makes_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in SWEEPS:
        run(words, ["--dry-run"])
        assert len(capsys.readouterr().out.splitlines()) == 4
    assert SWEEPS


def test_the_quick_start_is_the_script() -> None:
    script = QUICKSTART.replace("$out", "outputs/quickstart").replace("\\\n", " ")
    lines = [shlex.split(line) for line in script.splitlines() if line.startswith(("run ldm-train", "run python"))]
    ours = [words for words in commands(README) if "quickstart" in " ".join(words) or "data/openmoji" in " ".join(words)]
    assert [words[1:3] for words in lines] == [words[:2] for words in ours]
    for script_words, words in zip(lines, ours, strict=True):
        assert {w for w in words if not w.startswith("prompts=")} <= set(script_words)


@pytest.mark.slow
def test_the_quick_start_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = ROOT / "scripts" / "prepare_openmoji.py"
    subprocess.run([sys.executable, str(script), "data/openmoji", "--count", "5"], check=True)
    small = {
        **SMALL,
        "encode": [],
        "check": [],
        "train": ["max_steps=2", "batch_size=4", "pictures.steps=2", "metrics.steps=1"],
    }
    for words in commands(README):
        if words[0] == "ldm-train" and ("quickstart" in " ".join(words) or "data/openmoji" in " ".join(words)):
            run(words, small[words[1]])
    metrics = json.loads(Path("outputs/quickstart/metrics.json").read_text())
    assert metrics["pictures"] == 3 * 4
    assert {"retrieval_at_1", "background_accuracy", "drawing_psnr", "autoencoder_psnr"} <= metrics.keys()
    assert metrics["autoencoder_psnr"] > 28
    with Image.open("outputs/quickstart/pictures/0000.png") as picture:
        assert picture.size == (64, 64)


@pytest.mark.slow
def test_your_own_pictures_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("DIR").mkdir()
    for number in range(6):
        Image.new("RGB", (20, 16), (40 * number, 100, 200)).save(f"DIR/{number}.png")
        Path(f"DIR/{number}.txt").write_text(f"a flat picture number {number}\n")
    for name in ("cat/1.png", "dog/1.png"):
        (Path("CLASSES") / name).parent.mkdir(parents=True)
        Image.new("RGB", (20, 16), "red").save(Path("CLASSES") / name)
    for words in commands(README.split("## Your own pictures")[1].split("**A second data set**")[0]):
        run(words, SMALL[words[1]])
    assert Path("outputs/mine/pictures/grid.png").is_file()
    assert Path("outputs/classes/pictures/0001.png").is_file()
    assert Path("autoencoders/mine/autoencoder/config.json").is_file()


RESULTS = [
    json.loads((ROOT / "docs" / "results" / name).read_text()) for name in ("quickstart.json", "quickstart_noise.json")
]
DIGITS = {"retrieval_at_1": 3, "background_accuracy": 3, "drawing_psnr": 1, "autoencoder_psnr": 1, "validation_noise_mse": 4}


@pytest.mark.parametrize("name", DIGITS)
def test_the_table_holds_the_measured_figures(name: str) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}`"))
    shown = [cell.strip() for cell in row.split("|")[2:4]]
    assert shown == [f"{result[name]:.{DIGITS[name]}f}" for result in RESULTS]


def test_the_tables_are_those_of_the_configs_and_results() -> None:
    spec = importlib.util.spec_from_file_location("renew_readme", ROOT / "scripts" / "renew_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.renewed(README) == README, "python scripts/renew_readme.py renews it"


def test_the_second_data_set_s_figure_is_its_evaluation_s() -> None:
    measured = json.loads((ROOT / "docs" / "results" / "noto.json").read_text())
    assert f"the validation loss is {measured['validation_loss']:.3f}" in README


def test_the_autoencoder_s_figure_is_its_training_s() -> None:
    folder = ROOT / "ldm_train" / "encoders" / "pretrained" / "openmoji"
    training = json.loads((folder / "training.json").read_text())
    assert f"{training['held_out_psnr']:.1f} dB on held-out scenes" in README
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
