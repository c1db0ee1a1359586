"""The wheel, installed in a folder: it holds all that the commands need, and the examples of own code run with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.test_own_code_runs import EXAMPLES, SMALL

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel is installed."""
    room = tmp_path_factory.mktemp("wheel")
    for name in ("ldm_train", "conf"):
        shutil.copytree(REPOSITORY / name, room / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(REPOSITORY / name, room / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(room), str(room / "source")], room)
    [wheel] = room.glob("*.whl")
    run([*pip, "install", "--no-deps", "--target", str(room / "site"), str(wheel)], room)
    return room / "site"


def run(command: list[str], folder: Path, **environment: str) -> str:
    result = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=500
    )
    assert result.returncode == 0, (command, result.stderr, result.stdout)
    return result.stdout


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(site: Path) -> None:
    for package, installed in (("ldm_train", "ldm_train"), ("conf", "ldm_train/conf")):
        paths = (path.relative_to(REPOSITORY / package) for path in (REPOSITORY / package).rglob("*") if path.is_file())
        missing = [path for path in paths if "__pycache__" not in path.parts and not (site / installed / path).is_file()]
        assert missing == []


@pytest.mark.slow
def test_own_code_trains_and_draws_with_it(site: Path, tmp_path: Path) -> None:
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "scans").mkdir()
    for number in range(8):
        np.save(
            tmp_path / f"scans/scan {number}.npy", np.random.default_rng(number).integers(0, 3000, (20, 16)).astype("uint16")
        )
    where = run([sys.executable, "-c", "import ldm_train; print(ldm_train.__file__)"], tmp_path, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
    own = ["source._target_=mysource.Scans", "source.path=scans", "source.window=[0,3000]", "text_encoder=small"]
    training = ["network._target_=mynet.TinyNetwork", "network.width=8", "optimizer._target_=myoptimizer.SignDescent"]
    training += ["callbacks=[{_target_:mycallbacks.WeightNorm,every:1}]", "metrics=[mymetrics.Sharpness]"]
    for words in (
        ["encode", *own, "autoencoder=general", "image_size=16", "cache=cache"],
        ["train", "cache=cache", "run_dir=run", *training, *SMALL],
        ["sample", "run_dir=run", "prompts=[a]", "out=drawn", "steps=2"],
    ):
        run([sys.executable, "-m", "ldm_train", *words, "trust=."], tmp_path, PYTHONPATH=str(site))
    assert (tmp_path / "drawn/0000.png").is_file()
