"""A run's identity: the same for the same run, carried by its files, and refused in another run's directory."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ldm_train.assembly.stored_weights import load_start
from ldm_train.run_dir.config_changes import identify_run
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.ema.snapshots import read_snapshots
from ldm_train.training.run_files import SHORT_ID
from tests.run_dir.records import QUIET, files, record

WORDS = [*QUIET, "ema=power", "ema.snapshot_every=4"]
LAST = "checkpoints/last.ckpt"
SNAPSHOT = "ema/step-00000004.safetensors"


def run_id(run_dir: Path) -> str:
    found = record(run_dir)["run_id"]
    assert isinstance(found, str)
    return found


def in_checkpoint(path: Path) -> str:
    return torch.load(path, weights_only=True)["run_id"]


@pytest.fixture(scope="module")
def original(run_with: Callable) -> Path:
    return run_with(*WORDS)


@pytest.fixture(scope="module")
def other(run_with: Callable) -> Path:
    return run_with(*WORDS, "seed=1")


@pytest.fixture
def run_dir(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


# What it is


def identity(*words: str, content: str = "data", first: str | None = None, purpose: str = "noise") -> str:
    config = compose_as(TrainSettings, ["cache=a", "run_dir=b", *words])
    return identify_run(config, content=content, first_weights=first, trained_for={"prediction": purpose})


@pytest.mark.parametrize(
    "words", [["seed=1"], ["batch_size=8"], ["optimizer.lr=2e-3"], ["ema=power"], ["network.weights=x"], ["trained=[a]"]]
)
def test_what_a_continued_run_may_not_change_makes_another_run(words: list[str]) -> None:
    assert identity(*words) != identity()


def test_other_data_first_weights_and_purposes_make_another_run() -> None:
    assert len({identity(), identity(content="x"), identity(first="x"), identity(purpose="velocity")}) == 4


@pytest.mark.parametrize(
    "words",
    [
        ["max_steps=9", "run_dir=c", "cache=[d,e]", "resume=restart"],
        ["trainer.devices=2", "trainer.strategy=ddp", "workers=3", "micro_batch_size=1"],
        ["checkpoint.every=9", "sampler=ddpm", "validation.every=7"],
    ],
)
def test_what_a_continued_run_may_change_makes_no_other_run(words: list[str]) -> None:
    assert identity(*words) == identity()


def test_first_weights_are_named_by_what_they_are_and_not_by_their_path() -> None:
    assert identity("network.weights=a", first="x") == identity("network.weights=b", first="x")
    assert identity("network.weights=a", first="x") != identity("network.weights=a", first="y")


def test_two_identical_runs_have_one_identity_and_equal_files(
    original: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    assert train(cache, tmp_path / "again", *WORDS).code == 0
    assert run_id(tmp_path / "again") == run_id(original)
    assert in_checkpoint(tmp_path / "again" / LAST) == in_checkpoint(original / LAST) == run_id(original)
    assert (tmp_path / "again" / SNAPSHOT).read_bytes() == (original / SNAPSHOT).read_bytes()
    assert {snapshot.run_id for snapshot in read_snapshots(original)} == {run_id(original)}


def test_runs_from_first_weights_are_reported_apart_by_them(
    original: Path, other: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    starts = {"one": original, "same": shutil.copytree(original, tmp_path / "copy"), "other": other}
    for name, weights in starts.items():
        assert train(cache, tmp_path / name, *QUIET, "max_steps=1", f"network.weights={weights}").code == 0
    one, same, another = (run_id(tmp_path / name) for name in starts)
    assert one == same != another


def test_a_text_encoder_that_is_trained_from_a_file_is_among_the_first_weights() -> None:
    def named(seed: int, *, trained: bool = True, weights: str | None = "text.pt") -> str | None:
        torch.manual_seed(seed)
        encoder: Any = nn.Linear(2, 2)
        encoder.trained = trained
        words = ["text_encoder=clip_vit_l_14", "text_encoder.weights=" + (weights or "null")]
        config = compose_as(TrainSettings, ["cache=a", "run_dir=b", *words])
        return load_start(config, SimpleNamespace(text_encoder=encoder))  # type: ignore[arg-type]

    assert named(0) == named(0, weights="moved.pt") != named(1)
    assert named(0, trained=False) is None, "what a network is trained for names it"
    assert named(0, weights=None) is None, "the seed draws it"


# What is refused


def refusing(answer: object, path: Path, run_dir: Path, other: Path) -> None:
    assert answer.code == 1  # type: ignore[attr-defined]
    for word in (path, run_dir / "run.json", run_id(run_dir)[:SHORT_ID], run_id(other)[:SHORT_ID], "resume=restart"):
        assert str(word) in answer.err  # type: ignore[attr-defined]


DRAWING = ["prompts=[x]", "steps=1", "device=cpu"]


@pytest.mark.parametrize("verb", ["sample", "weak", "evaluate", "export", "start", "adapter", "continue"])
def test_another_runs_checkpoint_is_refused(
    verb: str, run_dir: Path, original: Path, other: Path, cache: Path, ldm_train: Callable, train: Callable, tmp_path: Path
) -> None:
    shutil.copyfile(other / LAST, run_dir / LAST)
    before = files(run_dir)
    out = tmp_path / "out"
    answer = {
        "sample": lambda: ldm_train("sample", f"run_dir={run_dir}", f"out={out}", *DRAWING),
        "weak": lambda: ldm_train(
            "sample", f"run_dir={original}", f"out={out}", *DRAWING, "guidance=autoguidance", f"guidance.weak={run_dir}"
        ),
        "evaluate": lambda: ldm_train(
            "evaluate", f"run_dir={run_dir}", f"cache={cache}", f"out={out}.json", "features=null"
        ),
        "export": lambda: ldm_train("export", f"run_dir={run_dir}", f"out={out}.safetensors"),
        "start": lambda: train(cache, out, f"network.weights={run_dir}"),
        "adapter": lambda: train(cache, out, f"network.weights={run_dir}", "adapter=lora"),
        "continue": lambda: train(cache, run_dir, *WORDS, "max_steps=9"),
    }[verb]()
    refusing(answer, run_dir / LAST, run_dir, other)
    assert files(run_dir) == before
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["best.ckpt", "step-00000004.ckpt"])
def test_another_runs_checkpoint_is_not_continued_from_under_any_name(
    name: str, run_dir: Path, other: Path, cache: Path, train: Callable
) -> None:
    path = run_dir / "checkpoints" / name
    shutil.copyfile(other / LAST, path)
    (run_dir / LAST).write_bytes((run_dir / LAST).read_bytes()[:1000])  # damaged, so the other one would take its place
    refusing(train(cache, run_dir, *WORDS, "max_steps=9"), path, run_dir, other)


def test_an_average_is_not_made_from_another_runs(run_dir: Path, other: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = ["export", f"run_dir={run_dir}", f"out={tmp_path / 'a.safetensors'}", "ema_length=0.1"]
    shutil.copyfile(other / SNAPSHOT, run_dir / SNAPSHOT)
    refusing(ldm_train(*words), run_dir / SNAPSHOT, run_dir, other)


def test_a_checkpoint_without_an_identity_is_refused(run_dir: Path, cache: Path, train: Callable) -> None:
    checkpoint = torch.load(run_dir / LAST, weights_only=True)
    del checkpoint["run_id"]
    torch.save(checkpoint, run_dir / LAST)
    answer = train(cache, run_dir, *WORDS, "max_steps=9")
    assert answer.code == 1
    assert str(run_dir / LAST) in answer.err


def test_a_restart_needs_no_checkpoint_of_its_own(run_dir: Path, other: Path, cache: Path, train: Callable) -> None:
    shutil.copyfile(other / LAST, run_dir / LAST)
    assert train(cache, run_dir, *WORDS, "resume=restart", "max_steps=1", "seed=2").code == 0
    assert in_checkpoint(run_dir / LAST) == run_id(run_dir) != run_id(other)


@pytest.mark.slow
def test_an_autoencoders_checkpoint_is_refused_in_another_run(
    pictures: Path, ldm_train: Callable, autoencoder_settings: list[str], tmp_path: Path
) -> None:
    def train_autoencoder(name: str, *words: str) -> object:
        where = [f"source.path={pictures}", f"run_dir={tmp_path / name}"]
        return ldm_train("train_autoencoder", *where, *autoencoder_settings, *words)

    for name, seed in (("one", 0), ("two", 1)):
        assert train_autoencoder(name, "max_steps=1", f"seed={seed}").code == 0  # type: ignore[attr-defined]
    shutil.copyfile(tmp_path / "two" / LAST, tmp_path / "one" / LAST)
    refusing(train_autoencoder("one", "max_steps=2"), tmp_path / "one" / LAST, tmp_path / "one", tmp_path / "two")


# What goes on


@pytest.mark.parametrize("name", ["copied", "moved"])
def test_a_copied_or_moved_run_goes_on_by_itself(
    name: str, run_dir: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    before = run_id(run_dir)
    place = tmp_path / name
    shutil.copytree(run_dir, place) if name == "copied" else run_dir.rename(place)
    answer = train(cache, place, *WORDS, "max_steps=9", "checkpoint.every=2", "workers=1")
    assert answer.code == 0, answer.err
    assert run_id(place) == in_checkpoint(place / LAST) == before
    assert record(place)["run_dir"] == str(place)


def test_a_record_without_an_identity_has_nothing_to_compare(run_dir: Path, ldm_train: Callable, tmp_path: Path) -> None:
    found = record(run_dir)
    del found["run_id"]
    (run_dir / "run.json").write_text(json.dumps(found))
    assert ldm_train("export", f"run_dir={run_dir}", f"out={tmp_path / 'a.safetensors'}").code == 0


def test_first_weights_that_cannot_be_loaded_leave_a_run_that_is_to_be_restarted(
    run_dir: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    before = files(run_dir)
    answer = train(cache, run_dir, *WORDS, "resume=restart", f"network.weights={tmp_path / 'absent'}")
    assert answer.code == 1
    assert files(run_dir) == before


# Copies with links


@pytest.fixture
def linked(run_dir: Path, cache: Path, train: Callable, tmp_path: Path) -> Path:
    """A run directory that was started where it is, with its checkpoints on another disk."""
    assert train(cache, run_dir, *WORDS, "max_steps=9").code == 0
    (run_dir / "checkpoints").rename(tmp_path / "disk")
    (run_dir / "checkpoints").symlink_to(tmp_path / "disk")
    return run_dir


def test_a_copy_does_not_write_into_a_folder_that_its_original_links_to(
    linked: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    copy = Path(shutil.copytree(linked, tmp_path / "copy", symlinks=True))
    before = files(disk)
    for words in (["max_steps=10"], ["resume=restart"]):
        answer = train(cache, copy, *WORDS, *words)
        assert answer.code == 1
        for path in (linked, copy / "checkpoints", disk):
            assert str(path) in answer.err
    assert files(disk) == before
    assert train(cache, linked, *WORDS, "max_steps=10").code == 0, "it is the original's"
    (copy / "checkpoints").unlink()
    shutil.copytree(disk, copy / "checkpoints")
    assert train(cache, copy, *WORDS, "max_steps=11").code == 0
    assert in_checkpoint(disk / "last.ckpt") == in_checkpoint(copy / LAST)
    assert [torch.load(path, weights_only=True)["global_step"] for path in (disk / "last.ckpt", copy / LAST)] == [10, 11]


def test_nor_does_a_copy_of_a_copy(original: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    """The first copy was never started, so nothing records that the folder is its."""
    for name in ("one", "two"):
        shutil.copytree(original, tmp_path / name, ignore=shutil.ignore_patterns("checkpoints"))
        (tmp_path / name / "checkpoints").symlink_to(tmp_path / "disk")
    shutil.copytree(original / "checkpoints", tmp_path / "disk")
    answer = train(cache, tmp_path / "two", *WORDS, "max_steps=9")
    assert answer.code == 1
    assert str(tmp_path / "two/checkpoints") in answer.err


@pytest.mark.parametrize("original_is", ["moved", "removed", "replaced"])
def test_a_run_that_was_moved_keeps_its_link(
    original_is: str, linked: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    if original_is == "removed":
        shutil.copytree(linked, moved, symlinks=True)
        shutil.rmtree(linked)
    else:
        linked.rename(moved)
    if original_is == "replaced":
        assert train(cache, linked, *WORDS, "max_steps=1").code == 0, "the same run again, in a folder of this name"
    answer = train(cache, moved, *WORDS, "max_steps=10")
    assert answer.code == 0, answer.err
    assert in_checkpoint(tmp_path / "disk/last.ckpt") == run_id(moved)
