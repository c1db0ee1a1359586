"""Checkpoints: which are kept, that damaged ones lose no more than they must, and that a full disk loses nothing."""

import json
import math
import os
import pickle
import random
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ldm_train.training.callbacks.checkpoints import Checkpoints, Keeping, occupied
from ldm_train.training.checkpoint_files import checkpoints, damage, newest_whole, numbered, prune
from ldm_train.training.jsonl import JsonLinesLogger
from ldm_train.training.sharded_checkpoint import SHARES, remove_unnamed_shares

QUIET = ["pictures.prompts=[]", "pictures.every=1000", "validation.every=1000"]
KEPT = [*QUIET, "checkpoint.every=2", "checkpoint.keep=3"]


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def last(run_dir: Path) -> Path:
    return run_dir / "checkpoints/last.ckpt"


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(run_dir: Path, whole: Path) -> None:
    """Weights, averages, the optimizer's state and the metrics, bit for bit."""
    one, other = load(last(run_dir)), load(last(whole))
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert_close(one[part], other[part], rtol=0, atol=0)
    assert_close(one["callbacks"]["EMA"]["average"], other["callbacks"]["EMA"]["average"], rtol=0, atol=0)
    assert (run_dir / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def whole(run_with: Callable) -> Path:
    """The run that nothing happened to."""
    return run_with(*KEPT)


@pytest.fixture(scope="module")
def cut(cache: Path, train: Callable, power_cut: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, cut after step 7: there are checkpoints of steps 2, 4 and 6, the last one by two names."""
    run_dir = tmp_path_factory.mktemp("cut") / "run"
    with power_cut(7):
        train(cache, run_dir, *KEPT)
    assert list(numbered(run_dir)) == [2, 4, 6]
    assert last(run_dir).samefile(numbered(run_dir)[6])
    return run_dir


@pytest.fixture
def copy(cut: Path, tmp_path: Path) -> Path:
    """Of that run, whose files are linked as they are there."""
    subprocess.run(["cp", "-a", cut, tmp_path / "run"], check=True)
    return tmp_path / "run"


# What is in one


def test_a_checkpoint_holds_what_is_trained_four_times_and_nothing_that_is_frozen(
    pictures: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    """Raw and averaged weights and the optimizer's two moments, the LR schedule and the position."""
    assert encode(pictures, tmp_path / "cache", "text_encoder.trained=false").code == 0
    assert train(tmp_path / "cache", tmp_path / "run", *QUIET, "max_steps=5", "checkpoint.every=5").code == 0
    checkpoint = load(last(tmp_path / "run"))
    sizes: list[int] = []

    def collect(tree: object) -> None:
        for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ():
            collect(part)
        if isinstance(tree, Tensor) and tree.dim():
            sizes.append(tree.numel())

    collect(checkpoint)
    trained = sum(tensor.numel() for tensor in checkpoint["state_dict"].values())
    assert sum(sizes) == 4 * trained
    assert {name.partition(".")[0] for name in checkpoint["state_dict"]} == {"network"}
    assert checkpoint["global_step"] == checkpoint["lr_schedulers"][0]["last_epoch"] == 5
    assert checkpoint["callbacks"]["EMA"]["updates"] == 5


# Which are kept


@pytest.mark.parametrize(
    ("every", "keep", "keep_every", "expected"),
    [
        (1, 3, None, [6, 7, 8]),
        (2, 2, None, [6, 8]),
        (1, 3, 2, [2, 4, 6, 7, 8]),
        (2, 1, 4, [4, 8]),
        (3, 5, None, [3, 6, 8]),
        (3, 2, 3, [3, 6, 8]),
        (3, 1, None, []),
    ],
)
def test_the_newest_and_those_of_every_so_many_steps_stay(
    every: int, keep: int, keep_every: int | None, expected: list[int], cache: Path, train: Callable, tmp_path: Path
) -> None:
    words = [f"checkpoint.{name}={value}" for name, value in (("every", every), ("keep", keep)) if value]
    words += [] if keep_every is None else [f"checkpoint.keep_every={keep_every}"]
    answer = train(cache, tmp_path / "run", *QUIET, *words)
    assert answer.code == 0, answer.err
    assert {step: load(path)["global_step"] for step, path in numbered(tmp_path / "run").items()} == {s: s for s in expected}
    assert load(last(tmp_path / "run"))["global_step"] == 8
    assert len(list(last(tmp_path / "run").parent.iterdir())) == 1 + len(expected)


@pytest.mark.parametrize("keep", range(5))
@pytest.mark.parametrize("count", range(5))
def test_no_more_are_removed_than_there_are_too_many(keep: int, count: int, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in range(1, count + 1):
        (tmp_path / f"checkpoints/step-{step:08d}.ckpt").touch()
    prune(tmp_path, keep=keep, keep_every=None)
    assert list(numbered(tmp_path)) == list(range(1, count + 1))[max(0, count - keep) :]


def test_fewer_are_kept_when_fewer_are_asked_for(copy: Path, cache: Path, train: Callable) -> None:
    assert train(cache, copy, *KEPT, "checkpoint.keep=2", "max_steps=7").code == 0
    assert list(numbered(copy)) == [6, 7]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["checkpoint.every=0"], "checkpoint.every=0 must be a whole number of at least 1"),
        (["checkpoint.keep=0"], "checkpoint.keep=0 must be a whole number of at least 1"),
        (["checkpoint.keep_every=5"], "must be a multiple of checkpoint.every=3"),
        (["checkpoint.best_is=nicest"], "checkpoint.best_is=nicest is not known"),
        (["checkpoint.best=time/samples_per_second"], "is of the clock"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    words: list[str], message: str, cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", *words)
    assert answer.code == 1
    assert message in answer.err
    assert not (tmp_path / "run").exists()


# The best


@pytest.mark.parametrize(
    ("best_is", "values", "expected"),
    [
        ("lowest", [3.0, 2.0, 2.0, 4.0], [1, 2, 2, 2]),
        ("highest", [3.0, 5.0, 5.0, 4.0], [1, 2, 2, 2]),
        ("lowest", [math.nan, 2.0, math.nan, 1.0], [None, 2, 2, 4]),
        ("highest", [math.nan, -2.0, math.nan, -1.0], [None, 2, 2, 4]),
        ("lowest", [math.inf, math.inf, 7.0, -math.inf], [None, None, 3, 4]),
        ("highest", [-math.inf, 0.0, math.nan, 0.0], [None, 2, 2, 2]),
    ],
)
def test_the_first_of_the_best_values_is_it_and_no_number_never(
    best_is: Any, values: list[float], expected: list[int | None], tmp_path: Path
) -> None:
    log = JsonLinesLogger(tmp_path)
    watching = Checkpoints(tmp_path, Keeping(every=1, best="metric", best_is=best_is), log)
    found = []
    for step, value in enumerate(values, start=1):
        log.latest = {"metric": (step, value), "other": (step, -1e9)}
        watching._is_best(step)
        assert not watching._is_best(step + 1), "a value that was logged before"
        found.append(watching.best_step)
    assert found == expected


def best_step(run_dir: Path, metric: str, choose: Callable) -> int:
    """By the log."""
    found = {
        line[metric]: int(line["step"]) for line in reversed(lines(run_dir)) if math.isfinite(line.get(metric, math.nan))
    }
    return found[choose(found)]


@pytest.mark.parametrize(
    ("best_is", "metric", "choose"),
    [("lowest", "loss", min), ("highest", "loss", max), ("lowest", "validation_loss", min)],
)
def test_the_best_stays_beside_the_last_and_is_the_same_after_a_resume(
    best_is: str,
    metric: str,
    choose: Callable,
    cache: Path,
    train: Callable,
    power_cut: Callable,
    spoiled: Callable,
    tmp_path: Path,
) -> None:
    words = [*QUIET, "checkpoint.every=3", f"checkpoint.best={metric}", f"checkpoint.best_is={best_is}"]
    words += ["validation.every=2"] if metric == "validation_loss" else []
    with spoiled({1, 4}, "loss"):
        assert train(cache, tmp_path / "whole", *words).code == 0
        with power_cut(5):
            train(cache, tmp_path / "cut", *words)
        assert train(cache, tmp_path / "cut", *words).code == 0
    expected = best_step(tmp_path / "whole", metric, choose)
    one, other = (load(tmp_path / name / "checkpoints/best.ckpt") for name in ("whole", "cut"))
    assert one["global_step"] == other["global_step"] == expected
    assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_another_metric_starts_its_own_comparison(copy: Path, cache: Path, train: Callable) -> None:
    """A rate is far below any loss, which it is not to be compared with."""
    assert train(cache, copy, *KEPT, "checkpoint.best=lr", "max_steps=7").code == 0
    assert load(copy / "checkpoints/best.ckpt")["global_step"] == 7
    assert train(cache, copy, *KEPT, "checkpoint.best=loss", "max_steps=8").code == 0
    assert load(copy / "checkpoints/best.ckpt")["global_step"] == 8


def test_a_metric_that_nothing_logs_is_told_once_with_those_there_are(cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(cache, tmp_path / "run", *KEPT, "checkpoint.best=validation_los")
    assert answer.code == 0
    assert (
        answer.out.count("checkpoint.best=validation_los was not logged up to step 2; there are: grad_norm, loss, lr") == 1
    )


def test_what_a_kill_between_saving_and_keeping_left_undone_is_done(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, power_cut: Callable
) -> None:
    words = [*KEPT, "checkpoint.best=lr"]  # warming up from step 1 on: the first is the lowest
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_keep", lambda *arguments: (_ for _ in ()).throw(OSError("killed")))
        assert train(cache, run_dir, *words).code == 1
    assert [path.name for path in checkpoints(run_dir)] == ["last.ckpt"]
    step = load(last(run_dir))["global_step"]
    with power_cut(step + 1):
        train(cache, run_dir, *words)
    assert load(run_dir / "checkpoints/best.ckpt")["global_step"] == step
    assert step in numbered(run_dir)


# Damage


def flip(path: Path, offset: int) -> None:
    """One bit, in the file that all its names are of."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def place(path: Path, name: str) -> int:
    """Where a member's content begins in the archive."""
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(name))
        start = info.header_offset
        header = path.read_bytes()[start : start + 30]
        return start + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a bit of a tensor": lambda path: flip(path, place(path, "/data/0") + 5),
    "a bit of the structure": lambda path: flip(path, place(path, "data.pkl") + 20),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_last_checkpoint_costs_the_steps_since_the_one_before(
    kind: str, copy: Path, cache: Path, train: Callable, whole: Path
) -> None:
    for path in {last(copy), numbered(copy)[6]} if kind == "gone" else {last(copy)}:
        DAMAGE[kind](path)
    for name in ("last.writing", "best.ckpt.writing", "step-00000001.ckpt.writing"):
        (copy / "checkpoints" / name).write_bytes(b"left over")
    answer = train(cache, copy, *KEPT)
    assert answer.code == 0, answer.err
    if kind != "gone":
        assert f"warning: {last(copy)} is damaged" in answer.out
    assert f"continuing from {numbered(copy)[4]} instead" in answer.out
    assert f"continuing {copy} at step 4" in answer.out
    assert_same_run(copy, whole)
    assert {path.name for path in (copy / "checkpoints").iterdir()} == {
        *("last.ckpt", "step-00000004.ckpt", "step-00000006.ckpt", "step-00000008.ckpt")
    }


def test_a_whole_best_checkpoint_is_better_than_none(
    copy: Path, cache: Path, train: Callable, whole: Path, ldm_train: Callable
) -> None:
    shutil.copyfile(numbered(copy)[4], copy / "checkpoints/best.ckpt")
    for path in (last(copy), *numbered(copy).values()):
        if path.name != "step-00000002.ckpt":
            path.unlink()
    os.truncate(numbered(copy)[2], 100)
    answer = train(cache, copy, *KEPT)
    assert answer.code == 0, answer.err
    assert f"continuing {copy} at step 4" in answer.out
    assert_same_run(copy, whole)


def test_where_all_are_damaged_each_is_named_and_nothing_is_started(copy: Path, cache: Path, train: Callable) -> None:
    for path in checkpoints(copy):
        os.truncate(path, 1000)
    told = ("run.json", "config.yaml")  # of this start
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name not in told}
    answer = train(cache, copy, *KEPT)
    assert answer.code == 1
    assert f"all checkpoints in {copy / 'checkpoints'} are damaged" in answer.err
    for path in checkpoints(copy):
        assert f"warning: {path} is damaged" in answer.out
    assert {path: path.read_bytes() for path in before} == before


class Executed:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("kind", ["an archive", "a plain pickle"])
def test_code_in_a_checkpoint_is_never_run(kind: str, copy: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    trap = Executed(tmp_path / "executed")
    for path in checkpoints(copy):
        path.unlink()
    if kind == "an archive":
        torch.save({"global_step": 3, "state_dict": trap}, last(copy))
    else:
        last(copy).write_bytes(pickle.dumps({"global_step": 3, "state_dict": trap}))
    answer = train(cache, copy, *KEPT)
    assert answer.code == 1
    assert f"warning: {last(copy)} is damaged" in answer.out
    assert not (tmp_path / "executed").exists()


@pytest.fixture(scope="module")
def small(cut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of few tensors."""
    checkpoint = load(last(cut))
    kept = dict(list(checkpoint["state_dict"].items())[:3])
    path = tmp_path_factory.mktemp("small") / "last.ckpt"
    torch.save({"global_step": 6, "state_dict": kept}, path)
    return path


def offsets(path: Path) -> list[int]:
    """Of the archive's own bytes, all at its end and some elsewhere; and of some of its content."""
    size = path.stat().st_size
    chosen = random.Random(0).sample(range(size), 150)
    return sorted({*chosen, *range(0, 80, 3), *range(size - 250, size)})


def test_any_flipped_bit_is_found_or_harmless(small: Path, tmp_path: Path) -> None:
    path, expected = tmp_path / "last.ckpt", load(small)
    found = 0
    for offset in offsets(small):
        shutil.copyfile(small, path)
        flip(path, offset)
        if damage(path) is None:
            assert_close(load(path), expected, rtol=0, atol=0)
        else:
            found += 1
    assert found > 100


def test_any_length_but_the_whole_is_found(small: Path, tmp_path: Path) -> None:
    path, size = tmp_path / "last.ckpt", small.stat().st_size
    for length in {*random.Random(1).sample(range(size), 60), 0, 1, 21, 22, size - 1, size - 22}:
        shutil.copyfile(small, path)
        os.truncate(path, length)
        assert damage(path) is not None, length
    assert damage(small) is None


def test_a_checkpoint_that_cannot_be_read_keeps_all_shares(tmp_path: Path) -> None:
    """Which of them it names is not known."""
    (tmp_path / "some.shares").mkdir()
    torch.save({SHARES: None}, tmp_path / "last.ckpt")
    (tmp_path / "step-00000001.ckpt").write_bytes(b"damaged")
    remove_unnamed_shares(tmp_path)
    assert (tmp_path / "some.shares").is_dir()
    (tmp_path / "step-00000001.ckpt").unlink()
    remove_unnamed_shares(tmp_path)
    assert not (tmp_path / "some.shares").exists()


def test_a_folder_without_checkpoints_has_none_to_continue(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/others.ckpt").touch()
    assert newest_whole(tmp_path) is None


# A full disk


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_without_room_for_the_runs_checkpoints_is_told_at_once(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40 - 2**20, 2**20))
        answer = train(cache, tmp_path / "run", *KEPT)
    assert answer.code == 1
    said = re.search(r"the run's checkpoints will take (\d+) MiB, and \S+/checkpoints has 1 MiB left", answer.err)
    assert said
    assert "make room, lower checkpoint.keep=3, or choose another run_dir" in answer.err
    assert not (tmp_path / "run/metrics.jsonl").exists()
    assert train(cache, tmp_path / "run", *KEPT).code == 0
    most = 4 * last(tmp_path / "run").stat().st_size / 2**20  # three are kept, and one is being written
    assert 0.8 * most - 1 < int(said[1]) < 1.2 * most + 1


def test_a_disk_that_held_a_run_is_not_too_small_to_continue_it(
    copy: Path, cache: Path, train: Callable, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for four, three of which are there."""
    capacity = int(4.2 * last(copy).stat().st_size)

    def usage(path: Path) -> Usage:
        used = occupied(copy / "checkpoints")
        return Usage(capacity, used, capacity - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    answer = train(cache, copy, *KEPT)
    assert answer.code == 0, answer.err
    assert_same_run(copy, whole)


@pytest.fixture
def disk(tmp_path: Path, cut: Path) -> Iterator[Path]:
    """A file system of its own with room for three checkpoints."""
    folder, size = tmp_path / "disk", int(3.5 * last(cut).stat().st_size)
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("told", ["the room is asked for", "the room is lied about"])
def test_a_disk_that_fills_up_leaves_the_checkpoint_before_and_the_run_goes_on_when_there_is_room(
    told: str,
    disk: Path,
    cache: Path,
    train: Callable,
    run_with: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir, words, original = disk / "run", [*QUIET, "checkpoint.every=2"], Checkpoints._save

    def fill(self: Checkpoints, trainer: Any) -> None:
        if trainer.global_step == 6:
            free = shutil.disk_usage(disk).free
            (disk / "filler").write_bytes(bytes(free - last(run_dir).stat().st_size // 2))
            if told == "the room is lied about":
                monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**40))
        original(self, trainer)

    monkeypatch.setattr(Checkpoints, "_save", fill)
    answer = train(cache, run_dir, *words)
    monkeypatch.undo()
    assert answer.code == 1
    assert "Traceback" not in answer.err
    if told == "the room is asked for":
        assert re.search(
            r"the next checkpoint will take \d+ MiB, and \S+/checkpoints has \d+ MiB left; make room", answer.err
        )
    else:
        assert re.search(
            r"cannot write \S+/last.writing .* MiB are free there\): .*; \S+/last.ckpt is as it was", answer.err
        )
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["last.ckpt"]
    assert load(last(run_dir))["global_step"] == 4
    (disk / "filler").unlink()
    answer = train(cache, run_dir, *words)
    assert answer.code == 0, answer.err
    assert_same_run(run_dir, run_with(*words))
