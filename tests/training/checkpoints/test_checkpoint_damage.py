"""Damaged checkpoints: found, reported, and no more is lost than must be."""

import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ldm_train.training.checkpoints.checkpoint_files import checkpoints, damage, newest_whole, numbered
from ldm_train.training.checkpoints.sharded_checkpoint import SHARES, remove_unnamed_shares
from ldm_train.util.files import temporary_path
from tests.training.checkpoints.checkpointed import KEPT, assert_same_run, last, load


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
    kind: str, copied: Path, cache: Path, train: Callable, whole: Path
) -> None:
    for path in {last(copied), numbered(copied)[6]} if kind == "gone" else {last(copied)}:
        DAMAGE[kind](path)
    for name in ("last.ckpt", "best.ckpt", "step-00000001.ckpt"):
        temporary_path(copied / "checkpoints" / name).write_bytes(b"left over")
    answer = train(cache, copied, *KEPT)
    assert answer.code == 0, answer.err
    if kind != "gone":
        assert f"warning: {last(copied)} is damaged" in answer.out
    assert f"continuing from {numbered(copied)[4]} instead" in answer.out
    assert f"continuing {copied} at step 4" in answer.out
    assert_same_run(copied, whole)
    assert {path.name for path in (copied / "checkpoints").iterdir()} == {
        *("last.ckpt", "step-00000004.ckpt", "step-00000006.ckpt", "step-00000008.ckpt")
    }


def test_a_whole_best_checkpoint_is_better_than_none(
    copied: Path, cache: Path, train: Callable, whole: Path, ldm_train: Callable
) -> None:
    shutil.copyfile(numbered(copied)[4], copied / "checkpoints/best.ckpt")
    for path in (last(copied), *numbered(copied).values()):
        if path.name != "step-00000002.ckpt":
            path.unlink()
    os.truncate(numbered(copied)[2], 100)
    answer = train(cache, copied, *KEPT)
    assert answer.code == 0, answer.err
    assert f"continuing {copied} at step 4" in answer.out
    assert_same_run(copied, whole)


def test_where_all_are_damaged_each_is_named_and_nothing_is_started(copied: Path, cache: Path, train: Callable) -> None:
    for path in checkpoints(copied):
        os.truncate(path, 1000)
    reported = ("run.json", "config.yaml")  # of this start
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file() and path.name not in reported}
    answer = train(cache, copied, *KEPT)
    assert answer.code == 1
    assert f"all checkpoints in {copied / 'checkpoints'} are damaged" in answer.err
    for path in checkpoints(copied):
        assert f"warning: {path} is damaged" in answer.out
    assert {path: path.read_bytes() for path in before} == before


class Executed:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("kind", ["an archive", "a plain pickle"])
def test_code_in_a_checkpoint_is_never_run(kind: str, copied: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    trap = Executed(tmp_path / "executed")
    for path in checkpoints(copied):
        path.unlink()
    if kind == "an archive":
        torch.save({"global_step": 3, "state_dict": trap}, last(copied))
    else:
        last(copied).write_bytes(pickle.dumps({"global_step": 3, "state_dict": trap}))
    answer = train(cache, copied, *KEPT)
    assert answer.code == 1
    assert f"warning: {last(copied)} is damaged" in answer.out
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
    (tmp_path / "some-0123abcd.shares").mkdir()
    torch.save({SHARES: None}, tmp_path / "last.ckpt")
    (tmp_path / "step-00000001.ckpt").write_bytes(b"damaged")
    remove_unnamed_shares(tmp_path)
    assert (tmp_path / "some-0123abcd.shares").is_dir()
    (tmp_path / "step-00000001.ckpt").unlink()
    remove_unnamed_shares(tmp_path)
    assert not (tmp_path / "some-0123abcd.shares").exists()


def test_a_folder_without_checkpoints_has_none_to_continue(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/others.ckpt").touch()
    assert newest_whole(tmp_path) is None
