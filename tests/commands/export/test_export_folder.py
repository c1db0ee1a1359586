"""The folder that an export writes: whole or absent, and in the place of nothing that is not its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ldm_train.commands.export.export_folder import refuse_existing, refuse_existing_file, write_whole_folder
from ldm_train.util.ownership import EXPORT
from ldm_train.util.replacing import ReplacedFolder
from ldm_train.weights.streaming_writer import stream_tensors
from ldm_train.weights.tensor_files import write_tensor_file
from tests.folders import digests


def refused(out: Path, run: Path, *, overwrite: bool = False) -> str:
    with pytest.raises(ValueError, match="out=") as caught:
        refuse_existing(out, given=str(out), overwrite=overwrite, keep=run)
    return str(caught.value)


def accepted(out: Path, run: Path, *, overwrite: bool = False) -> None:
    refuse_existing(out, given=str(out), overwrite=overwrite, keep=run)


def test_a_folder_that_no_export_wrote_is_left_alone(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("kept")
    words = [f"run_dir={trained}", "layout=diffusers"]
    answer = ldm_train("export", *words, f"out={tmp_path}/mine")
    assert answer.code == 1
    assert "overwrite=true" in answer.err
    assert (tmp_path / "mine/file").read_text() == "kept"
    before = digests(trained.parent)
    for own in (trained, trained.parent, trained / "checkpoints"):
        assert "out=" in ldm_train("export", *words, f"out={own}", "overwrite=true").err
    assert digests(trained.parent) == before
    assert ldm_train("export", *words, f"out={tmp_path}/mine", "overwrite=true").code == 0
    assert not (tmp_path / "mine/file").exists()
    assert ldm_train("export", *words, f"out={tmp_path}/mine").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_runs_caches_and_the_current_folder_are_never_overwritten(
    tmp_path: Path, cache: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = tmp_path / "outer"
    shutil.copytree(trained, outer / "another run")
    shutil.copytree(cache, outer / "cache")
    (tmp_path / "here/below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/below")
    before = digests(tmp_path)
    places = (
        outer,
        outer / "another run",
        outer / "cache",
        outer / "another run/checkpoints",
        tmp_path / "here",
        Path.home(),
    )
    for out in places:
        assert str(out) in refused(out, trained, overwrite=True)
    with pytest.raises(ValueError, match="out is empty"):
        refuse_existing(tmp_path, given="", overwrite=True, keep=trained)
    assert digests(tmp_path) == before


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    with write_whole_folder(tmp_path / "out", {}) as folder:
        (folder / "a").write_text("first")

    def fail() -> None:
        with write_whole_folder(tmp_path / "out", {}) as folder:
            (folder / "a").write_text("second")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert (tmp_path / "out/a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_came_or_changed_since_an_export_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with write_whole_folder(out, {}) as folder:
        (folder / "README.md").write_text("a card")
    accepted(out, tmp_path / "run")
    (out / ".DS_Store").write_text("icons")
    accepted(out, tmp_path / "run")
    (out / ".git").mkdir()
    (out / ".git/config").write_text("mine")
    (out / "README.md").write_text("a card with its licence")
    assert ".git/config, README.md" in refused(out, tmp_path / "run")
    accepted(out, tmp_path / "run", overwrite=True)


def test_names_next_to_an_export_are_the_user_s(tmp_path: Path) -> None:
    for name in ("out.writing", "out.replaced", "out.lock", ".out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("mine")
    before = digests(tmp_path)
    for text in ("first", "second"):
        with write_whole_folder(tmp_path / "out", {}) as folder:
            (folder / "a").write_text(text)
    assert before.items() <= digests(tmp_path).items()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.writing", "out.replaced", "out.lock", ".out"}


@pytest.mark.parametrize("killed", ["while it wrote", "before the new one had its name", "before the old one was gone"])
def test_what_a_killed_export_leaves_is_not_mixed_with_the_next(killed: str, tmp_path: Path) -> None:
    """By the folders that are there when the process ends without a word."""
    out = tmp_path / "out"
    place = ReplacedFolder(out, setting="out", check=lambda: None)
    place.start()
    there = {
        "while it wrote": (out, place.new),
        "before the new one had its name": (place.new, place.previous),
        "before the old one was gone": (out, place.previous),
    }[killed]
    for folder in there:
        folder.mkdir(exist_ok=True)
        (folder / "old").write_text("old")
    with write_whole_folder(out, {}) as folder:
        (folder / "new").write_text("new")
    assert sorted(path.name for path in out.iterdir()) == [EXPORT.mark, "new"]
    assert list(tmp_path.iterdir()) == [out]


def test_what_was_replaced_comes_back_where_the_new_one_cannot_have_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "out", Path.rename
    out.mkdir()
    (out / "old").write_text("old")

    def fails(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("no more")
        return rename(path, target)

    def replace() -> None:
        with write_whole_folder(out, {}):
            monkeypatch.setattr(Path, "rename", fails)

    with pytest.raises(OSError, match="no more"):
        replace()
    assert (out / "old").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_that_comes_while_an_export_works_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def export() -> None:
        with write_whole_folder(out, {}, check=lambda: accepted(out, tmp_path / "run")):
            out.mkdir()
            (out / "mine").write_text("mine")

    with pytest.raises(ValueError, match="mine"):
        export()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "mine").read_text() == "mine"


def test_two_exports_do_not_share_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with write_whole_folder(out, {}) as folder:
        (folder / "a").write_text("first")
        with pytest.raises(ValueError, match=f"out={out}"), write_whole_folder(out, {}):
            pass
    assert (out / "a").read_text() == "first"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("content", [b"", b"anything", None], ids=["empty", "another's", "another's weights"])
def test_a_file_that_no_export_wrote_is_left_alone(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if content is None:
        save_file({"weight": torch.ones(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"out={path}"):
        refuse_existing_file(path, overwrite=False)
    refuse_existing_file(path, overwrite=True)
    write_tensor_file(path, {"weight": torch.ones(1)}, {"step": 3, "weights": "ema"})
    refuse_existing_file(path, overwrite=False)


def test_a_run_s_own_file_is_never_overwritten(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    write_tensor_file(run / "ema/step-00000003.safetensors", {"weight": torch.ones(1)}, {"step": 3, "lengths": [0.1]})
    with pytest.raises(ValueError, match="run"):
        refuse_existing_file(run / "ema/step-00000003.safetensors", overwrite=True)


def test_a_full_disk_is_reported_with_the_file_and_its_room(tmp_path: Path) -> None:
    def make(name: str) -> torch.Tensor:
        raise OSError(28, "No space left on device")

    def export() -> None:
        with write_whole_folder(tmp_path / "out", {}) as folder:
            stream_tensors(folder / "a.safetensors", {"weight": torch.Size([1])}, make)

    with pytest.raises(OSError, match=r"cannot write .+a.safetensors \([\d,]+ MiB are free there\): .*No space left"):
        export()
    assert list(tmp_path.iterdir()) == []
