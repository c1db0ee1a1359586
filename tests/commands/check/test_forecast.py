"""What `check` tells of a run's disk and class pictures is what the run then takes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.assembly.parts import build_parts
from ldm_train.commands.check.forecast import count_checkpoints, count_passes
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.training.checkpoints.checkpoint_callback import Keeping, occupied
from tests.conftest import NETWORK, PICTURES, TEXT

OWN = ["channels_last=false", "ema=power", "ema.snapshot_every=4", "ema.dtype=float16", "checkpoint.keep=2"]
PROMPT = ["prior.prompts=a circle", "prior.count=40", "prior.steps=3"]


@pytest.fixture
def check(pictures: Path, train_words: list[str], ldm_train: Callable, tmp_path: Path) -> Callable[..., tuple[str, dict]]:
    """`check(*words)`: what was printed, and the JSON."""

    def run(*words: str) -> tuple[str, dict]:
        out = tmp_path / "check"
        own = [f"source.path={pictures}", f"out={out}", "measure=false", *PICTURES, *TEXT, *train_words]
        answer = ldm_train("check", *own, *words)
        return answer.out + answer.err, json.loads((out / "check.json").read_text())

    return run


@pytest.mark.parametrize(
    ("keeping", "number"),
    [
        (Keeping(3), 1),
        (Keeping(3, keep=2), 2),
        (Keeping(3, keep=9), 3),
        (Keeping(3, keep_every=3), 3),
        (Keeping(2, keep=2, keep_every=4, best="loss"), 4),
        (Keeping(500), 1),
    ],
)
def test_checkpoints_that_stay_are_counted(keeping: Keeping, number: int) -> None:
    """Of eight steps: those of keep and keep_every once, and the best."""
    assert count_checkpoints(keeping, 8) == number


def test_the_disk_it_foretells_is_what_a_run_takes(check: Callable, run_with: Callable[..., Path]) -> None:
    out, report = check(*OWN)
    files, run_dir = report["files"], run_with(*OWN)
    assert files["checkpoint"] == pytest.approx((run_dir / "checkpoints/last.ckpt").stat().st_size, rel=0.1)
    taken = occupied(run_dir / "checkpoints") + occupied(run_dir / "ema")
    assert files["total"] == pytest.approx(taken, rel=0.1)
    assert "the run keeps 2 checkpoints of" in out
    assert "2 snapshots of averaged weights of" in out


def test_too_small_a_disk_is_refused(check: Callable, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_train.commands.check.forecast.PIXEL", 10**15)
    _, report = check(f"network.weights={trained}", *PROMPT)
    assert any("the run's files need" in reason and "see checkpoint.keep" in reason for reason in report["reasons"])


@pytest.mark.parametrize(
    ("words", "number"), [([], 6), (["guidance.scale=1"], 3), (["sampler=heun"], 10), (["guidance.interval=[0,1e-6]"], 3)]
)
def test_passes_of_a_class_picture_are_counted(words: list[str], number: int) -> None:
    config = compose_as(CheckSettings, ["source.path=none", "prior.steps=3", *PICTURES, *TEXT, *NETWORK, *words])
    assert count_passes(config, build_parts(config)) == number


def test_class_pictures_are_reported_with_their_time(check: Callable, trained: Path) -> None:
    own = [f"network.weights={trained}", *PROMPT]
    out, report = check(*own, "measure=true", "price_per_hour=1000")
    assert "40 class pictures are drawn first, with 6 passes of the network each, in about" in out
    assert (report["prior"]["count"], report["prior"]["passes"]) == (40, 6)
    step = report["measured"]["step"]
    assert 0 < report["measured"]["prior_seconds"] < 40 * 6 * step["seconds"]


@pytest.mark.parametrize(("words", "said"), [(["network.weights=null"], "set network.weights"), (["prior.weight=0"], "0;")])
def test_what_they_do_not_go_with_is_refused(words: list[str], said: str, check: Callable, trained: Path) -> None:
    _, report = check(f"network.weights={trained}", *PROMPT, *words)
    assert any(said in reason for reason in report["reasons"])
