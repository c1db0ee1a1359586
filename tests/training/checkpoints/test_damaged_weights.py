"""Damaged weights are refused wherever a command loads them: one flipped bit of a checkpoint, a snapshot or an export."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm_train.assembly.stored_weights import read_checkpoint
from ldm_train.training.checkpoints.checkpoint_files import damage
from ldm_train.weights.tensor_files import read_tensor_file, write_tensor_file
from tests.training.checkpoints.test_checkpoint_damage import flip, place

DRAW = ("prompts=[x]", "steps=2", "device=cpu")


@pytest.fixture
def damaged(trained: Path, tmp_path: Path) -> Path:
    """A run with one bit of a tensor flipped in its last checkpoint, next to a whole one."""
    run_dir = Path(shutil.copytree(trained, tmp_path / "damaged"))
    last = run_dir / "checkpoints" / "last.ckpt"
    shutil.copyfile(last, last.with_name("best.ckpt"))
    flip(last, place(last, "/data/0") + 1)
    return run_dir


def test_one_flipped_bit_is_named_with_what_can_take_its_place(damaged: Path) -> None:
    last = damaged / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"best\.ckpt") as refused:
        read_checkpoint(damaged)
    assert str(last) in str(refused.value)
    best = last.with_name("best.ckpt")
    assert f"cp {best} {last}" in str(refused.value)
    shutil.copyfile(best, last)
    assert damage(last) is None
    read_checkpoint(damaged)


@pytest.mark.parametrize("command", ["sample", "export", "evaluate", "train", "weak", "adapters"])
def test_every_command_that_loads_a_run_refuses_it(
    command: str, damaged: Path, trained: Path, cache: Path, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    draw = ("sample", f"out={out}", *DRAW)
    answer = {
        "sample": lambda: ldm_train(*draw, f"run_dir={damaged}"),
        "weak": lambda: ldm_train(*draw, f"run_dir={trained}", "guidance=autoguidance", f"guidance.weak={damaged}"),
        "export": lambda: ldm_train("export", f"run_dir={damaged}", f"out={out}.safetensors"),
        "evaluate": lambda: ldm_train("evaluate", f"run_dir={damaged}", f"out={out}.json", "features=null", "device=cpu"),
        "train": lambda: train(cache, out, f"network.weights={damaged}"),
        "adapters": lambda: ldm_train(*draw, f"run_dir={trained}", f"adapters=[{adapted(damaged)}]"),
    }[command]()
    assert answer.code == 1
    assert str(damaged / "checkpoints" / "last.ckpt") in answer.err
    assert not [path for path in tmp_path.iterdir() if path != damaged]


def adapted(run_dir: Path) -> Path:
    """The same run, by its config one that trained adapters."""
    with (run_dir / "config.yaml").open("a") as file:
        file.write("adapter: {_target_: ldm_train.networks.lora.LoRA, rank: 2, alpha: null}\n")
    return run_dir


@pytest.fixture(scope="module")
def stored(run_with: Callable) -> Path:
    """A run with snapshots of its averages."""
    return run_with("ema=power", "ema.snapshot_every=4")


def test_a_snapshot_with_a_flipped_bit_is_named(stored: Path, ldm_train: Callable, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(stored, tmp_path / "run"))
    words = ("export", f"run_dir={run_dir}", "ema_length=0.1", f"out={tmp_path / 'average.safetensors'}")
    assert ldm_train(*words).code == 0
    snapshot = run_dir / "ema" / "step-00000004.safetensors"
    flip(snapshot, snapshot.stat().st_size - 3)
    answer = ldm_train(*words)
    assert answer.code == 1
    assert str(snapshot) in answer.err


@pytest.mark.parametrize("place_in_file", ["numbers", "metadata"])
def test_an_exported_file_with_a_flipped_bit_is_named(
    place_in_file: str, trained: Path, cache: Path, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    exported = tmp_path / "weights.safetensors"
    assert ldm_train("export", f"run_dir={trained}", f"out={exported}").code == 0
    content = exported.read_bytes()
    flip(exported, len(content) - 3 if place_in_file == "numbers" else content.index(b'step\\": ') + len(b'step\\": '))
    answer = ldm_train("sample", f"run_dir={trained}", f"weights={exported}", f"out={tmp_path / 'out'}", *DRAW)
    assert answer.code == 1
    assert f"{exported} is damaged" in answer.err
    answer = train(cache, tmp_path / "run", f"network.weights={exported}")
    assert answer.code == 1
    assert f"{exported} is damaged" in answer.err


def test_vectors_of_words_with_a_flipped_bit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "learned_embeds.safetensors"
    write_tensor_file(path, {"<toy>": torch.ones(2, 4), "empty": torch.ones(0), "one": torch.tensor(3)}, {})
    assert read_tensor_file(path)["<toy>"].shape == (2, 4)
    flip(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match=path.name):
        read_tensor_file(path)
