"""Replacing a folder as a whole, where the disk fails in the middle."""

import errno
import shutil
from pathlib import Path

import pytest

from ldm_train.util import replacing
from ldm_train.util.replacing import ReplacedFolder


def replace(folder: Path, content: str) -> None:
    place = ReplacedFolder(folder, setting="out", check=lambda: None)
    with place.locked():
        place.start()
        (place.new / "file").write_text(content)
        place.put_in_place()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_cannot_be_removed_is_named_and_removed_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(tmp_path / "out", "old")
    with monkeypatch.context() as patch:

        def fail(folder: Path) -> None:
            if folder.exists():
                raise OSError(errno.EIO, "Input/output error", "a name without its folder")

        patch.setattr(shutil, "rmtree", fail)
        with pytest.raises(OSError, match=r"out\.ldm-train-working/discarded"):
            replace(tmp_path / "out", "new")
    assert (tmp_path / ".out.ldm-train-working" / "working.json").exists(), "else the next one would take it for a user's"
    replace(tmp_path / "out", "newer")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "newer"


def test_files_that_a_network_drive_keeps_for_a_reader_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(tmp_path / "out", "old")
    with monkeypatch.context() as patch:

        def rename_what_is_read(folder: Path) -> None:
            if folder.exists():
                (folder / "file").replace(folder / ".nfs0000000000000001")
                raise OSError(errno.EBUSY, "Device or resource busy", str(folder))

        patch.setattr(shutil, "rmtree", rename_what_is_read)
        replace(tmp_path / "out", "new")
    assert (tmp_path / "out" / "file").read_text() == "new"
    replace(tmp_path / "out", "newer")
    assert names(tmp_path) == ["out"]


def test_the_old_folder_is_back_whatever_fails_after_it_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(tmp_path / "out", "old")
    flush = replacing.flush_folder

    def fail_once(folder: Path) -> None:
        if not (tmp_path / "out").exists():
            monkeypatch.setattr(replacing, "flush_folder", flush)
            raise OSError(errno.EIO, "Input/output error")
        flush(folder)

    monkeypatch.setattr(replacing, "flush_folder", fail_once)
    with pytest.raises(OSError, match="Input/output"):
        replace(tmp_path / "out", "new")
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]
