"""The folder of an export: whole or not at all, and in the place of nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.tasks.exporting.folder import whole_folder


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
