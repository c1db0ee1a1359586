"""Two processes over gloo, as the Trainer starts them, give the run that one gives, to the rounding of float64."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

DOUBLE = "trainer.precision=64-true"


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def weights(run_dir: Path, part: str) -> torch.Tensor:
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)
    state = checkpoint["state_dict"] if part == "raw" else checkpoint["callbacks"]["EMA"]["average"]
    return torch.cat([tensor.flatten() for tensor in state.values()])


@pytest.fixture(scope="module")
def one(run_with: Callable[..., Path]) -> Path:
    """The tiny run on one process."""
    return run_with(DOUBLE)


@pytest.fixture(scope="module")
def on_two_ranks(cache: Path, train_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`on_two_ranks(*overrides)`: the tiny run on two processes."""

    def run(*more: str) -> Path:
        run_dir = tmp_path_factory.mktemp("ddp") / "run"
        words = [f"cache={cache}", f"run_dir={run_dir}", *train_words, DOUBLE, "trainer.devices=2", "trainer.strategy=ddp"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(run_dir.parent)}
        command = [sys.executable, "-m", "ldm_train", "train", *words, *more]
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=550, env=environment, cwd=run_dir.parent
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return run_dir

    return run


@pytest.fixture(scope="module")
def two_ranks(on_two_ranks: Callable[..., Path]) -> Path:
    return on_two_ranks("checkpoint.background=true")


def test_metrics_equal_those_of_one_process(two_ranks: Path, one: Path) -> None:
    """At every step, the validation's too."""
    actual, reference = lines(two_ranks), lines(one)
    assert len(actual) == len(reference) == 8
    for line, other in zip(actual, reference, strict=True):
        assert line == pytest.approx(other, rel=1e-10, abs=0)


@pytest.mark.parametrize("part", ["raw", "averaged"])
def test_weights_equal_those_of_one_process(part: str, two_ranks: Path, one: Path) -> None:
    reference = weights(one, part)
    assert (weights(two_ranks, part) - reference).norm() < 1e-10 * reference.norm()


@pytest.mark.parametrize("name", ["step-00000008.png", "pairs-step-00000008.png", "growth.png"])
def test_pictures_that_are_drawn_in_shares_equal_those_of_one_process(name: str, two_ranks: Path, one: Path) -> None:
    actual, reference = (np.asarray(Image.open(run_dir / "samples" / name)).astype(int) for run_dir in (two_ranks, one))
    assert abs(actual - reference).max() <= 1


def test_files_are_written_by_one_rank_alone(two_ranks: Path, one: Path) -> None:
    names = [
        sorted(
            path.relative_to(run_dir).as_posix()
            for path in run_dir.rglob("*")
            if path.is_file() and path.parent.name != "tensorboard"
        )
        for run_dir in (one, two_ranks)
    ]
    assert names[0] == names[1]
    assert len(list((two_ranks / "tensorboard").glob("events.*"))) == 1


def test_one_process_continues_what_two_began(two_ranks: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(two_ranks, tmp_path / "run"))
    answer = train(cache, run_dir, DOUBLE, "max_steps=9")
    assert answer.code == 0, answer.err
    assert "at step 8" in answer.out
    assert [line["step"] for line in lines(run_dir)] == list(range(1, 10))


@pytest.mark.parametrize(
    "words",
    [
        ("adapter=lora", "adapter.rank=2", "adapter.text_encoder=true"),
        ('trained=["network.*.cross_attention.*","text_encoder.*.mlp.*"]',),
    ],
    ids=["adapters", "names"],
)
def test_a_part_that_two_train_equals_that_of_one(
    words: tuple[str, ...], trained: Path, on_two_ranks: Callable[..., Path], run_with: Callable[..., Path]
) -> None:
    own = (f"network.weights={trained}", *words, "pictures.prompts=[]")
    actual, reference = on_two_ranks(*own), run_with(DOUBLE, *own)
    for line, other in zip(lines(actual), lines(reference), strict=True):
        assert line == pytest.approx(other, rel=1e-10, abs=0)
    for part in ("raw", "averaged"):
        expected = weights(reference, part)
        assert (weights(actual, part) - expected).norm() < 1e-10 * expected.norm()
