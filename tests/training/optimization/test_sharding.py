"""Parameters shared out over two processes give the run that one gives, and checkpoints that any number reads."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from ldm_train.assembly.stored_weights import read_checkpoint
from ldm_train.training.checkpoints.sharded_checkpoint import SHARES, mapped, remove_unnamed_shares, whole
from ldm_train.training.optimization.sharded_tensors import swap_value
from ldm_train.training.optimization.sharding import iterate_list_layers

DOUBLE = "trainer.precision=64-true"
ADAPTERS = ("adapter=lora", "adapter.text_encoder=true", "optimizer.lr=0.05")


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def state(run_dir: Path) -> dict[str, Tensor]:
    """Raw and averaged weights and the optimizer's state, by name."""
    path = run_dir / "checkpoints/last.ckpt"
    checkpoint = whole(torch.load(path, weights_only=True), path)
    found: dict[str, Tensor] = {}
    for part in ("state_dict", "callbacks", "optimizer_states"):
        mapped(checkpoint[part], lambda keys, leaf: found.update({str(keys): leaf}) if isinstance(leaf, Tensor) else None)
    return found


def assert_near(run_dir: Path, other: Path) -> None:
    """Weights, averages and moments to the rounding of float64."""
    actual, reference = state(run_dir), state(other)
    assert actual.keys() == reference.keys()
    ours_flat, theirs_flat = (torch.cat([values[name].flatten() for name in reference]) for values in (actual, reference))
    assert (ours_flat - theirs_flat).norm() < 1e-10 * theirs_flat.norm()


@pytest.fixture(scope="module")
def one(run_with: Callable[..., Path]) -> Path:
    """The tiny run on one process."""
    return run_with(DOUBLE)


@pytest.fixture(scope="module")
def runs(cache: Path, one: Path, train_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs on two processes: `whole`, `cut` (at step 6, and continued), and `continued` from one process's."""
    folder = tmp_path_factory.mktemp("sharded")
    shutil.copytree(one, folder / "continued")

    def job(name: str, *more: str, **settings: int) -> dict[str, object]:
        words = [*train_words, DOUBLE, "trainer.devices=2", "trainer.strategy=fsdp2", *more]
        return {"words": ["train", f"cache={cache}", f"run_dir={folder / name}", *words], **settings}

    jobs = [
        job("whole", "checkpoint.shares=true"),
        job("cut", "checkpoint.shares=true", "pictures.prompts=[]", cut_at=6),
        job("cut", "checkpoint.shares=true", "pictures.prompts=[]"),
        job("continued", "max_steps=9", "pictures.prompts=[]", "checkpoint.background=true"),
        job("adapters", f"network.weights={one}", *ADAPTERS, "checkpoint.background=true"),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", Path(__file__).parents[1] / "driver.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, json.dumps(jobs)], capture_output=True, text=True, check=False, timeout=300, env=environment, cwd=folder
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    (folder / "stdout").write_text(ended.stdout)
    return folder


def test_sharded_adapters_equal_those_of_one_process(runs: Path, one: Path, run_with: Callable[..., Path]) -> None:
    assert_near(runs / "adapters", run_with(DOUBLE, f"network.weights={one}", *ADAPTERS))


def test_a_sharded_run_equals_that_of_one_process(runs: Path, one: Path) -> None:
    actual, reference = lines(runs / "whole"), lines(one)
    assert len(actual) == len(reference) == 8
    for line, other in zip(actual, reference, strict=True):
        assert line == pytest.approx(other, rel=1e-10, abs=0)
    assert_near(runs / "whole", one)
    assert {path.name for path in (runs / "whole/samples").iterdir()} == {p.name for p in (one / "samples").iterdir()}


def test_each_process_wrote_about_half_of_every_tensor(runs: Path) -> None:
    folder = runs / "whole/checkpoints"
    sizes = sorted(path.stat().st_size for path in folder.glob("*.shares/*.safetensors"))
    assert len(sizes) == 2
    assert sizes[0] > 0.9 * sizes[1]
    assert (folder / "last.ckpt").stat().st_size < 0.1 * sizes[0]
    assert {path.suffix for path in folder.iterdir()} == {".ckpt", ".shares"}


def test_a_run_cut_while_it_saved_goes_on_from_the_checkpoint_before(runs: Path) -> None:
    """Bit for bit as one that never was; of the shares that no file came to name nothing is left."""
    assert f"continuing {runs / 'cut'} at step 3" in (runs / "stdout").read_text()
    assert lines(runs / "cut") == lines(runs / "whole")
    assert_close(state(runs / "cut"), state(runs / "whole"), rtol=0, atol=0)
    assert len(list((runs / "cut/checkpoints").glob("*.shares"))) == 1


def test_one_process_and_two_continue_each_others_runs(runs: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(runs / "whole", tmp_path / "run"))
    answer = train(cache, run_dir, DOUBLE, "max_steps=9")
    assert answer.code == 0, answer.err
    assert "at step 8" in answer.out
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["last.ckpt"], "in one file again"
    assert lines(run_dir)[-1] == pytest.approx(lines(runs / "continued")[-1], rel=1e-10, abs=0)
    assert_near(run_dir, runs / "continued")


def test_pictures_are_drawn_from_shares(runs: Path, one: Path, ldm_train: Callable, tmp_path: Path) -> None:
    drawn = []
    for run_dir in (runs / "whole", one):
        out = tmp_path / f"of-{run_dir.name}"
        answer = ldm_train("sample", f"run_dir={run_dir}", "prompts=[a black circle]", "steps=4", f"out={out}", "device=cpu")
        assert answer.code == 0, answer.err
        with Image.open(out / "0000.png") as picture:
            drawn.append(torch.tensor(list(picture.convert("RGB").tobytes())))
    assert_close(drawn[0], drawn[1], atol=1, rtol=0)


def test_a_missing_share_is_reported(runs: Path, ldm_train: Callable, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(runs / "whole", tmp_path / "run"))
    lost = next((run_dir / "checkpoints").glob("*.shares/shard-00002*"))
    lost.unlink()
    answer = ldm_train("sample", f"run_dir={run_dir}", "prompts=[a]", f"out={tmp_path / 'out'}", "device=cpu")
    assert answer.code == 1
    assert lost.name in answer.err
    assert "Traceback" not in answer.err


def test_a_damaged_share_is_reported(runs: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(runs / "whole", tmp_path / "run"))
    damaged = next((run_dir / "checkpoints").glob("*.shares/shard-00002*"))
    content = damaged.read_bytes()
    for other in (content[:1000], content[:-1] + bytes([content[-1] ^ 1])):
        damaged.write_bytes(other)
        with pytest.raises(ValueError, match=damaged.name):
            read_checkpoint(run_dir)


def test_shares_that_some_checkpoint_names_are_kept(tmp_path: Path) -> None:
    for name in ("last-00000001", "best-00000002", "last-00000003", "mine"):
        (tmp_path / f"{name}.shares").mkdir()
    for name, folder in (("last", "last-00000001"), ("best", "best-00000002")):
        torch.save({SHARES: {"folder": f"{folder}.shares", "files": {}}}, tmp_path / f"{name}.ckpt")
    torch.save({"global_step": 1}, tmp_path / "other.ckpt")
    remove_unnamed_shares(tmp_path)
    assert {path.name for path in tmp_path.glob("*.shares")} == {
        *("last-00000001.shares", "best-00000002.shares", "mine.shares")
    }


def test_layers_are_the_elements_of_the_outermost_lists() -> None:
    inner = nn.ModuleList([nn.Linear(1, 1)])
    module = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(1, 1), nn.SiLU(), nn.Sequential(inner)]), "b": nn.Linear(1, 1)})
    assert list(iterate_list_layers(module)) == [module["a"][0], module["a"][2]]


def test_a_plain_value_is_swapped_in_without_a_copy() -> None:
    parameter, value = nn.Parameter(torch.zeros(2)), torch.ones(2)
    before = swap_value(parameter, value)
    assert parameter.data_ptr() == value.data_ptr()
    assert_close(before, torch.zeros(2))


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            ["trainer.strategy=fsdp2", "checkpoint.shares=true", "checkpoint.background=true"],
            "leave checkpoint.background=auto",
        ),
        (["trainer.strategy=fsdp2", "channels_last=true"], "set channels_last=false"),
        (["trainer.strategy=fsdp2", "compile=inductor"], "set compile=null"),
        (["trainer.strategy=fsdp"], "did you mean 'fsdp2'?"),
        (["checkpoint.shares=true"], "checkpoint.shares=true has no effect with trainer.strategy=auto"),
    ],
)
def test_what_does_not_go_with_sharding_is_refused(
    words: list[str], answer: str, cache: Path, train: Callable, tmp_path: Path
) -> None:
    refused = train(cache, tmp_path / "run", *words)
    assert refused.code == 1
    assert answer in refused.err
    assert not (tmp_path / "run").exists()
