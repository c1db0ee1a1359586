"""The folder that an export writes: whole or absent, and in the place of nothing that is not its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ldm_train.tasks.exporting.folder import MARK, refuse_existing, refuse_existing_file, whole_folder
from ldm_train.weights.files import write
from ldm_train.weights.streaming import stream


def test_a_folder_that_no_export_wrote_is_left_alone(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("kept")
    words = [f"run_dir={trained}", "layout=diffusers"]
    answer = ldm_train("export", *words, f"out={tmp_path}/mine")
    assert answer.code == 1
    assert "was not written by `ldm-train export`" in answer.err
    for own in (trained, trained.parent):
        assert "out=" in ldm_train("export", *words, f"out={own}", "overwrite=true").err
    assert ldm_train("export", *words, f"out={tmp_path}/mine", "overwrite=true").code == 0
    assert not (tmp_path / "mine/file").exists()
    assert ldm_train("export", *words, f"out={tmp_path}/mine").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out", {}) as folder:
        (folder / "a").write_text("first")

    def fail() -> None:
        with whole_folder(tmp_path / "out", {}) as folder:
            (folder / "a").write_text("second")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert (tmp_path / "out/a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_came_or_changed_since_an_export_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole_folder(out, {}) as folder:
        (folder / "README.md").write_text("a card")
    refuse_existing(out, overwrite=False, keep=tmp_path / "run")
    (out / ".git").mkdir()
    (out / ".git/config").write_text("mine")
    (out / "README.md").write_text("a card with its licence")
    with pytest.raises(ValueError, match=r"since then \.git/config, README\.md came or changed; choose another"):
        refuse_existing(out, overwrite=False, keep=tmp_path / "run")
    refuse_existing(out, overwrite=True, keep=tmp_path / "run")


@pytest.mark.parametrize("killed", ["while it wrote", "before the new one had its name", "before the old one was gone"])
def test_what_a_killed_export_leaves_is_not_mixed_with_the_next(killed: str, tmp_path: Path) -> None:
    """By the folders that are there when the process ends without a word."""
    out, writing, replaced = (tmp_path / name for name in ("out", "out.writing", "out.replaced"))
    there = {
        "while it wrote": (out, writing),
        "before the new one had its name": (writing, replaced),
        "before the old one was gone": (out, replaced),
    }[killed]
    for folder in there:
        folder.mkdir()
        (folder / "old").write_text("old")
    with whole_folder(out, {}) as folder:
        (folder / "new").write_text("new")
    assert sorted(path.name for path in out.iterdir()) == [MARK, "new"]
    assert list(tmp_path.iterdir()) == [out]


def test_what_was_replaced_comes_back_where_the_new_one_cannot_have_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "out", Path.rename
    out.mkdir()
    (out / "old").write_text("old")

    def fails(path: Path, target: Path) -> Path:
        if path.name == "out.writing":
            raise OSError("no more")
        return rename(path, target)

    def replace() -> None:
        with whole_folder(out, {}):
            monkeypatch.setattr(Path, "rename", fails)

    with pytest.raises(OSError, match="no more"):
        replace()
    assert (out / "old").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("content", [b"", b"anything", None], ids=["empty", "another's", "another's weights"])
def test_a_file_that_no_export_wrote_is_left_alone(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if content is None:
        save_file({"weight": torch.ones(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"out=\S+ is there already, and was not written by `ldm-train export`"):
        refuse_existing_file(path, overwrite=False)
    refuse_existing_file(path, overwrite=True)
    write(path, {"weight": torch.ones(1)}, {"step": 3, "weights": "ema"})
    refuse_existing_file(path, overwrite=False)


def test_a_full_disk_is_told_with_the_file_and_its_room(tmp_path: Path) -> None:
    def make(name: str) -> torch.Tensor:
        raise OSError(28, "No space left on device")

    def export() -> None:
        with whole_folder(tmp_path / "out", {}) as folder:
            stream(folder / "a.safetensors", {"weight": torch.Size([1])}, make)

    with pytest.raises(OSError, match=r"cannot write \S+a.safetensors \(\d+ MiB are free there\): .*No space left"):
        export()
    assert list(tmp_path.iterdir()) == []
